'use strict';
/* A client that has nothing but sockets: what a plugin in Node can do. It spawns, attaches, writes, half-closes, reads
 * both outputs and the exit, resizes a terminal, signals, and follows a log. Prints one JSON object. */

const net = require('node:net');
const assert = require('node:assert');

const socketPath = process.argv[2];
const scenario = process.argv[3];
const STDIN = 1, STDOUT = 2, RESIZE = 3, SIGNAL = 4, CREDIT = 5, STDERR = 6, EXIT = 7, DROPPED = 8, PING = 9;

function connect() {
  return new Promise((resolve, reject) => {
    const s = net.connect({ path: socketPath, allowHalfOpen: true });
    s.once('connect', () => resolve(s));
    s.once('error', reject);
  });
}

/* One call on a connection of its own; replies as they come. */
async function* call(method, parameters, flags = {}, keep = null) {
  const s = keep ?? await connect();
  let buffered = Buffer.alloc(0);
  s.write(JSON.stringify({ method: 'io.sandboxd.Session.' + method, parameters, ...flags }) + '\0');
  for await (const chunk of s.iterator({ destroyOnReturn: false })) {
    buffered = Buffer.concat([buffered, chunk]);
    for (let end; (end = buffered.indexOf(0)) >= 0; buffered = buffered.subarray(end + 1)) {
      const reply = JSON.parse(buffered.subarray(0, end).toString());
      if (reply.error)
        throw new Error(reply.error + ' ' + JSON.stringify(reply.parameters));
      if (flags.upgrade) {
        yield { ...reply.parameters, socket: s, early: buffered.subarray(end + 1) };
        return;
      }
      yield reply.parameters ?? {};
      if (!reply.continues) {
        if (!keep)
          s.destroy();
        return;
      }
    }
  }
  throw new Error('closed');
}

async function callOnce(method, parameters, flags, keep) {
  for await (const reply of call(method, parameters, flags, keep))
    return reply;
}

function frame(type, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(8);
  head[0] = type;
  head.writeUInt32BE(payload.length, 4);
  return Buffer.concat([head, payload]);
}

class Stream {
  constructor(socket, early) {
    this.socket = socket;
    this.out = [];
    this.err = [];
    this.dropped = 0;
    this.credit = 262144;
    this.buffered = early;
    this.waiters = [];
    this.ended = new Promise((resolve, reject) => {
      socket.on('data', (chunk) => this.take(chunk));
      socket.on('end', () => { this.isOver = true; this.wake(); resolve(); });
      socket.on('error', reject);
    });
    this.take(Buffer.alloc(0));
    socket.resume();
  }

  take(chunk) {
    this.buffered = Buffer.concat([this.buffered, chunk]);
    while (this.buffered.length >= 8) {
      const size = this.buffered.readUInt32BE(4);
      if (this.buffered.length < 8 + size)
        break;
      this.one(this.buffered[0], this.buffered[1], this.buffered.subarray(8, 8 + size));
      this.buffered = this.buffered.subarray(8 + size);
    }
    this.wake();
  }

  one(type, flags, payload) {
    assert(this.exit === undefined, 'a frame behind the exit');
    if (type === STDOUT || type === STDERR) {
      (type === STDOUT ? this.out : this.err).push(Buffer.from(payload));
      const credit = Buffer.alloc(4);
      credit.writeUInt32BE(payload.length);
      if (!this.socket.writableEnded)
        this.socket.write(frame(CREDIT, credit));
    } else if (type === EXIT)
      this.exit = { status: payload.readUInt32BE(), isSignal: (flags & 1) !== 0 };
    else if (type === DROPPED)
      this.dropped += Number(payload.readBigUInt64BE());
    else if (type === CREDIT)
      this.credit += payload.readUInt32BE();
    else
      assert.strictEqual(type, PING);
  }

  wake() {
    for (const w of this.waiters)
      w();
  }

  async until(condition) {
    while (!condition()) {
      assert(!this.isOver, 'the stream ended: ' + this.stdout() + this.stderr());
      await new Promise((resolve) => this.waiters.push(resolve));
      this.waiters = [];
    }
  }

  async write(data) {
    for (let at = 0; at < data.length;) {
      await this.until(() => this.credit > 0);
      const n = Math.min(data.length - at, 65536, this.credit);
      this.credit -= n;
      this.socket.write(frame(STDIN, data.subarray(at, at + n)));
      at += n;
    }
  }

  end() { this.socket.write(frame(STDIN)); }
  stdout() { return Buffer.concat(this.out).toString(); }
  stderr() { return Buffer.concat(this.err).toString(); }
}

async function attach(id, more = {}) {
  const { socket, early, framing } = await callOnce('Attach', { id, ...more }, { upgrade: true });
  assert.strictEqual(framing, more.framing ?? 'sandboxd.stream1');
  return new Stream(socket, early);
}

const command = (script, mode, more = {}) => ({
  commandLine: ['/bin/sh', '-c', script], standardInput: mode, standardOutput: mode, standardError: mode, ...more });

async function create() {
  return (await callOnce('Create', { context: { lifetime: 'detached' } })).id;
}

const scenarios = {
  /* Both outputs, input in two parts, the half-close, the exit. */
  async streams() {
    const spawned = call('Spawn', { context: {}, command: command('cat; echo to-error >&2; exit 7', 'stream') },
      { more: true });
    const { id } = (await spawned.next()).value;
    const s = await attach(id);
    await s.write(Buffer.from('one '));
    await s.until(() => s.stdout() === 'one ');
    await s.write(Buffer.from('two'));
    s.end();
    await s.ended;
    let last;
    for await (const reply of spawned)
      last = reply;
    return { stdout: s.stdout(), stderr: s.stderr(), exit: s.exit, result: last.result };
  },

  /* More than credit and every buffer, there and back. */
  async much() {
    const id = await create();
    await callOnce('Exec', { id, command: command('cat', 'stream') });
    const s = await attach(id);
    const data = Buffer.alloc(3 << 20);
    for (let i = 0; i < data.length; i += 4)
      data.writeUInt32BE(i, i);
    await s.write(data);
    s.socket.end();
    await s.ended;
    return { same: Buffer.compare(Buffer.concat(s.out), data) === 0, exit: s.exit };
  },

  /* A terminal, its size, and the interrupt character. */
  async terminal() {
    const id = await create();
    await callOnce('Exec', { id, command: command('stty size; read line; stty size; cat', 'pty',
      { terminal: { columns: 80, rows: 24 } }) });
    const s = await attach(id);
    await s.until(() => s.stdout().includes('24 80'));
    const size = Buffer.alloc(4);
    size.writeUInt16BE(132, 0);
    size.writeUInt16BE(43, 2);
    s.socket.write(frame(RESIZE, size));
    await s.write(Buffer.from('\n'));
    await s.until(() => s.stdout().includes('43 132'));
    /* Echo and answer: the shell is not between two commands, where it would forget the interrupt. */
    await s.write(Buffer.from('there\n'));
    await s.until(() => s.stdout().split('there').length === 3);
    await s.write(Buffer.from('\x03'));
    await s.ended;
    return { exit: s.exit };
  },

  /* The other way to resize, and a terminal that is left alone goes on. */
  async detach() {
    const id = await create();
    await callOnce('Exec', { id, command: command('stty size; read a; stty size; read b; echo "got $a $b"', 'pty',
      { terminal: { columns: 80, rows: 24 } }) });
    const first = await attach(id);
    await first.until(() => first.stdout().includes('24 80'));
    first.socket.destroy();
    await callOnce('Resize', { id, columns: 100, rows: 30 });
    const second = await attach(id, { replayBytes: 65536 });
    await second.until(() => second.stdout().includes('24 80'));
    await second.write(Buffer.from('x\ny\n'));
    await second.until(() => second.stdout().includes('30 100') && second.stdout().includes('got x y'));
    await second.ended;
    return { exit: second.exit };
  },

  async signal() {
    const id = await create();
    await callOnce('Exec', { id, command: command('trap "echo caught; exit 3" USR1; echo ready; while :; do sleep 0.1; done',
      'stream') });
    const s = await attach(id);
    await s.until(() => s.stdout() === 'ready\n');
    s.socket.write(frame(SIGNAL, Buffer.from('SIGUSR1')));
    await s.ended;
    return { stdout: s.stdout(), exit: s.exit };
  },

  async killed() {
    const id = await create();
    await callOnce('Exec', { id, command: command('kill -9 $$', 'stream') });
    const s = await attach(id);
    await s.ended;
    return { exit: s.exit };
  },

  async logs() {
    const id = await create();
    await callOnce('Exec', { id, command: command('echo early; echo oops >&2; read x < /tmp/go; echo late', 'log',
      { standardInput: 'null', commandLine: ['/bin/sh', '-c',
        'mkfifo /tmp/go; echo early; echo oops >&2; read x < /tmp/go; echo late'] }) });
    const seen = { stdout: '', stderr: '' };
    let released = false;
    for await (const reply of call('Logs', { id, follow: true }, { more: true })) {
      if (reply.data)
        seen[reply.stream] += Buffer.from(reply.data, 'base64').toString();
      if (!released && seen.stdout === 'early\n' && seen.stderr === 'oops\n') {
        released = true;
        await callOnce('Exec', { id, command: command('echo > /tmp/go', 'null') });
      }
      if (seen.stdout.includes('late') && !scenarios.ending)
        scenarios.ending = callOnce('Terminate', { id, graceUSec: 0 });
    }
    await scenarios.ending;
    return { ...seen, released };
  },

  async raw() {
    const id = await create();
    await callOnce('Exec', { id, command: command('cat; echo behind', 'stream') });
    const { socket, early } = await callOnce('Attach', { id, framing: 'raw' }, { upgrade: true });
    const parts = [early];
    socket.on('data', (chunk) => parts.push(chunk));
    socket.resume();
    socket.end('through ');
    await new Promise((resolve, reject) => { socket.on('end', resolve); socket.on('error', reject); });
    return { stdout: Buffer.concat(parts).toString() };
  },
};

scenarios[scenario]().then((result) => {
  console.log(JSON.stringify(result));
  process.exit(0);
}, (error) => {
  console.error(error);
  process.exit(1);
});
