#!/bin/sh
# Compiles sandbox-init with musl: statically, since the start-up of a dynamic program costs more than all it does, and
# at a random place all the same (the start file is named here because musl-gcc knows none for both).
# Usage: build.sh OUTPUT HEADERS_DIR SOURCE_ROOT [FLAG...] -- SOURCE...
set -eu
output=$1 headers=$2 root=$3
shift 3
mkdir -p "$headers"
# musl brings no kernel headers; the host's are reached without the rest of /usr/include.
machine=$(gcc -dumpmachine)
ln -sfn /usr/include/linux "$headers/linux"
ln -sfn /usr/include/asm-generic "$headers/asm-generic"
if [ -d "/usr/include/$machine/asm" ]; then
        ln -sfn "/usr/include/$machine/asm" "$headers/asm"
else
        ln -sfn /usr/include/asm "$headers/asm"
fi
library=/usr/lib/${machine%%-*}-linux-musl
flags=
while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
done
shift
# shellcheck disable=SC2086
exec musl-gcc -std=gnu17 -O2 -g -fPIE -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,text -D_GNU_SOURCE -I"$root" -isystem "$headers" \
        -Wall -Wextra -Werror -Wformat=2 -Wshadow -Wvla -Wstrict-prototypes \
        -Wframe-larger-than=16384 -fstack-protector-strong -fstack-clash-protection -fcf-protection \
        -ftrivial-auto-var-init=zero -fno-common -fvisibility=hidden -Wl,-z,relro,-z,now,-z,noexecstack \
        $flags -o "$output" "$library/rcrt1.o" "$library/crti.o" "$@" "$library/crtn.o"
