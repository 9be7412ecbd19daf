/*
 * Where credentials lie by custom. Whatever a policy shows, these are masked below it, unless a rule names them.
 * Literal paths only; a folder stands for all below it.
 */

#include "daemon/policy/model.h"

const char *const credential_home_paths[] = {
        /* keys, agents, password stores */
        ".ssh", ".gnupg", ".pki", ".password-store", ".local/share/keyrings", ".local/share/kwalletd",
        ".config/sops/age", ".config/age", ".1password", ".config/1Password", ".config/op", ".config/Bitwarden",
        ".config/Bitwarden CLI", ".config/rbw", ".lpass", ".config/keepassxc", ".step", ".tsh", ".vault-token",
        ".config/hcp",
        /* clouds */
        ".aws", ".azure", ".config/gcloud", ".config/google-cloud-sdk", ".boto", ".s3cfg", ".mc", ".rclone.conf",
        ".config/rclone", ".oci", ".config/doctl", ".config/hcloud", ".config/scw", ".linode-cli",
        ".config/linode-cli", ".fly", ".config/heroku", ".netlify", ".config/netlify", ".vercel",
        ".local/share/com.vercel.cli", ".wrangler", ".config/.wrangler", ".cloudflared", ".cf", ".bluemix", ".aliyun",
        ".tccli", ".snowflake", ".snowsql", ".databrickscfg", ".pulumi", ".terraform.d/credentials.tfrc.json",
        ".terraformrc", ".config/openstack", ".kaggle", ".config/stripe", ".config/ngrok", ".ngrok2",
        ".config/tailscale", ".wireguard",
        /* clusters, containers */
        ".kube", ".docker/config.json", ".docker/contexts", ".config/containers/auth.json", ".helm", ".config/helm",
        ".minikube", ".config/argocd",
        /* forges, version control */
        ".git-credentials", ".config/git/credentials", ".config/gh", ".config/hub", ".config/glab-cli", ".config/tea",
        ".netrc", "_netrc", ".authinfo", ".authinfo.gpg", ".subversion/auth", ".hgrc", ".gitcookies",
        ".config/git-credential-oauth", ".config/git-credential-manager",
        /* package registries */
        ".npmrc", ".yarnrc", ".yarnrc.yml", ".config/pnpm/rc", ".bunfig.toml", ".pypirc", ".config/pip/pip.conf",
        ".pip/pip.conf", ".config/pypoetry/auth.toml", ".config/uv/credentials", ".local/share/uv/credentials",
        ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".bundle/config", ".m2/settings.xml",
        ".m2/settings-security.xml", ".gradle/gradle.properties", ".ivy2/.credentials", ".sbt/credentials",
        ".composer/auth.json", ".config/composer/auth.json", ".nuget/NuGet/NuGet.Config", ".config/NuGet", ".hex",
        ".conda/aau_token", ".condarc", ".conan", ".conan2", ".cabal/config", ".luarocks/config.lua",
        /* assistants */
        ".claude/.credentials.json", ".claude.json", ".config/claude", ".codex/auth.json",
        ".gemini/oauth_creds.json", ".gemini/google_accounts.json", ".config/github-copilot", ".cursor",
        ".config/Cursor", ".local/share/opencode/auth.json", ".aider.conf.yml", ".aider", ".config/openai", ".openai",
        ".anthropic", ".continue", ".codeium", ".huggingface/token", ".cache/huggingface/token",
        ".config/huggingface", ".replicate", ".wandb", ".config/wandb", ".ollama/id_ed25519", ".config/goose",
        ".kiro", ".mcp-auth",
        /* databases */
        ".pgpass", ".pg_service.conf", ".my.cnf", ".mylogin.cnf", ".mongorc.js", ".mongodb", ".dbshell", ".rediscli",
        ".rediscli_history", ".config/redis", ".sqliterc", ".cassandra", ".config/dbeaver",
        ".local/share/DBeaverData",
        /* browsers, mail, chat */
        ".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware",
        ".config/microsoft-edge", ".config/vivaldi", ".config/opera", ".cache/google-chrome", ".cache/chromium",
        ".cache/BraveSoftware", ".cache/microsoft-edge", ".cache/vivaldi", ".cache/opera", ".cache/mozilla", "snap",
        ".var/app", ".config/Slack", ".config/discord", ".config/Signal", ".config/Element", ".config/teams",
        ".config/zoom", ".config/skypeforlinux", ".local/share/TelegramDesktop", ".local/share/evolution",
        ".config/evolution", ".mail", "Mail", "Maildir", ".mutt", ".muttrc", ".config/mutt", ".msmtprc",
        ".fetchmailrc", ".config/isyncrc", ".mbsyncrc", ".offlineimaprc",
        /* histories, dumps */
        ".bash_history", ".zsh_history", ".zhistory", ".local/share/fish", ".python_history", ".node_repl_history",
        ".psql_history", ".mysql_history", ".sqlite_history", ".lesshst", ".viminfo", ".local/state/nvim/shada",
        ".wget-hsts", ".ICEauthority", ".Xauthority", ".xsession-errors", ".local/share/recently-used.xbel",
        ".config/JetBrains", ".config/Code/User/globalStorage", ".vscode-server/data", ".config/environment.d",
        /* networks of offices */
        ".k5login", ".config/krb5", ".smbcredentials", ".cifs", ".rdp", ".config/remmina", ".local/share/remmina",
        ".config/filezilla", ".config/lftp", ".ansible", ".vault_pass", ".vault_pass.txt", ".chef", ".puppet",
        ".puppetlabs",
        /* wallets */
        ".bitcoin", ".ethereum", ".electrum", ".config/solana", ".config/Exodus", ".near-credentials",
        ".foundry/keystores",
        NULL,
};

const char *const credential_system_paths[] = {
        "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
        "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssl/private", "/etc/letsencrypt", "/etc/krb5.keytab", "/etc/NetworkManager/system-connections",
        "/etc/wireguard", "/etc/openvpn", "/etc/docker/key.json", "/etc/kubernetes", "/etc/rancher",
        "/var/lib/kubelet", "/var/lib/docker", "/var/lib/sandboxd", "/etc/sandboxd", "/run/sandboxd", "/root",
        "/var/spool/mail", "/var/spool/cron", "/var/spool/at", "/var/log", "/var/backups", "/var/lib/cloud",
        "/run/cloud-init", "/run/user", "/run/credentials", "/run/secrets", "/boot",
        NULL,
};
