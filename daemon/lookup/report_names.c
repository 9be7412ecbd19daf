#include <fnmatch.h>
#include <string.h>

#include "daemon/lookup/report.h"
#include "proto/base/macro.h"
#include "proto/base/str.h"

typedef struct Name {
        const char *pattern; /* of a path: "*" also stands for slashes */
        PrivReportKind kind;
} Name;

/* Anywhere in the workspace: "*" in front is put there. The first one counts. */
static const Name names[] = {
        { ".git/hooks/*", REPORT_HOOK },
        { ".git/modules/*/hooks/*", REPORT_HOOK },
        { ".githooks/*", REPORT_HOOK },
        { ".husky/*", REPORT_HOOK },
        { ".pre-commit-config.yaml", REPORT_HOOK },
        { "lefthook.yml", REPORT_HOOK },
        { ".git/config", REPORT_GIT_CONFIG },
        { ".git/config.worktree", REPORT_GIT_CONFIG },
        { ".git/commondir", REPORT_GIT_CONFIG },
        { ".git/info/attributes", REPORT_GIT_CONFIG },
        { ".git/objects/info/alternates", REPORT_GIT_CONFIG },
        { ".git/remotes/*", REPORT_GIT_CONFIG },
        { ".git/branches/*", REPORT_GIT_CONFIG },
        { ".git/modules/*/config", REPORT_GIT_CONFIG },
        { ".git/modules/*/config.worktree", REPORT_GIT_CONFIG },
        { ".git/modules/*/commondir", REPORT_GIT_CONFIG },
        { ".git/modules/*/info/attributes", REPORT_GIT_CONFIG },
        { ".git/modules/*/remotes/*", REPORT_GIT_CONFIG },
        { ".git/modules/*/branches/*", REPORT_GIT_CONFIG },
        { ".git/worktrees/*/config.worktree", REPORT_GIT_CONFIG },
        { ".git/worktrees/*/gitdir", REPORT_GIT_CONFIG },
        { ".git/worktrees/*/commondir", REPORT_GIT_CONFIG },
        { ".git/rebase-merge/git-rebase-todo", REPORT_GIT_CONFIG },
        { ".git", REPORT_GIT_CONFIG },
        { ".gitmodules", REPORT_GIT_CONFIG },
        { ".gitattributes", REPORT_GIT_CONFIG },
        { ".hg/hgrc", REPORT_GIT_CONFIG },
        { ".jj/repo/config.toml", REPORT_GIT_CONFIG },
        { ".vscode/*", REPORT_EDITOR_CONFIG },
        { "*.code-workspace", REPORT_EDITOR_CONFIG },
        { ".idea/*", REPORT_EDITOR_CONFIG },
        { ".fleet/*", REPORT_EDITOR_CONFIG },
        { ".zed/*", REPORT_EDITOR_CONFIG },
        { ".devcontainer/*", REPORT_EDITOR_CONFIG },
        { ".exrc", REPORT_EDITOR_CONFIG },
        { ".vimrc", REPORT_EDITOR_CONFIG },
        { ".nvim.lua", REPORT_EDITOR_CONFIG },
        { ".nvimrc", REPORT_EDITOR_CONFIG },
        { ".dir-locals.el", REPORT_EDITOR_CONFIG },
        { ".emacs.d/*", REPORT_EDITOR_CONFIG },
        { ".helix/*", REPORT_EDITOR_CONFIG },
        { "*.sublime-project", REPORT_EDITOR_CONFIG },
        { ".claude/*", REPORT_AGENT_CONFIG },
        { ".mcp.json", REPORT_AGENT_CONFIG },
        { "CLAUDE.md", REPORT_AGENT_CONFIG },
        { "AGENTS.md", REPORT_AGENT_CONFIG },
        { "GEMINI.md", REPORT_AGENT_CONFIG },
        { ".github/copilot-instructions.md", REPORT_AGENT_CONFIG },
        { ".cursor/*", REPORT_AGENT_CONFIG },
        { ".cursorrules", REPORT_AGENT_CONFIG },
        { ".codex/*", REPORT_AGENT_CONFIG },
        { ".agents/*", REPORT_AGENT_CONFIG },
        { ".gemini/*", REPORT_AGENT_CONFIG },
        { ".windsurf/*", REPORT_AGENT_CONFIG },
        { ".kiro/*", REPORT_AGENT_CONFIG },
        { ".clinerules*", REPORT_AGENT_CONFIG },
        { ".roo/*", REPORT_AGENT_CONFIG },
        { ".continue/*", REPORT_AGENT_CONFIG },
        { ".aider.conf.yml", REPORT_AGENT_CONFIG },
        { ".opencode/*", REPORT_AGENT_CONFIG },
        { "opencode.json", REPORT_AGENT_CONFIG },
        { ".goosehints", REPORT_AGENT_CONFIG },
        { ".junie/*", REPORT_AGENT_CONFIG },
        { ".amp/*", REPORT_AGENT_CONFIG },
        { ".qwen/*", REPORT_AGENT_CONFIG },
        { ".bashrc", REPORT_START_FILE },
        { ".bash_profile", REPORT_START_FILE },
        { ".bash_login", REPORT_START_FILE },
        { ".bash_logout", REPORT_START_FILE },
        { ".bash_aliases", REPORT_START_FILE },
        { ".profile", REPORT_START_FILE },
        { ".zshrc", REPORT_START_FILE },
        { ".zshenv", REPORT_START_FILE },
        { ".zprofile", REPORT_START_FILE },
        { ".zlogin", REPORT_START_FILE },
        { ".zlogout", REPORT_START_FILE },
        { ".kshrc", REPORT_START_FILE },
        { ".cshrc", REPORT_START_FILE },
        { ".tcshrc", REPORT_START_FILE },
        { ".login", REPORT_START_FILE },
        { ".logout", REPORT_START_FILE },
        { ".config/fish/*", REPORT_START_FILE },
        { ".inputrc", REPORT_START_FILE },
        { ".pam_environment", REPORT_START_FILE },
        { ".xinitrc", REPORT_START_FILE },
        { ".xprofile", REPORT_START_FILE },
        { ".xsession", REPORT_START_FILE },
        { ".config/environment.d/*", REPORT_START_FILE },
        { ".envrc", REPORT_BUILD_FILE },
        { ".direnvrc", REPORT_BUILD_FILE },
        { "Makefile", REPORT_BUILD_FILE },
        { "GNUmakefile", REPORT_BUILD_FILE },
        { "makefile", REPORT_BUILD_FILE },
        { "justfile", REPORT_BUILD_FILE },
        { "Taskfile.yml", REPORT_BUILD_FILE },
        { "package.json", REPORT_BUILD_FILE },
        { "package-lock.json", REPORT_BUILD_FILE },
        { "yarn.lock", REPORT_BUILD_FILE },
        { "pnpm-lock.yaml", REPORT_BUILD_FILE },
        { ".npmrc", REPORT_BUILD_FILE },
        { ".yarnrc.yml", REPORT_BUILD_FILE },
        { ".pnpmfile.cjs", REPORT_BUILD_FILE },
        { "bunfig.toml", REPORT_BUILD_FILE },
        { "pyproject.toml", REPORT_BUILD_FILE },
        { "setup.py", REPORT_BUILD_FILE },
        { "setup.cfg", REPORT_BUILD_FILE },
        { "conftest.py", REPORT_BUILD_FILE },
        { "tox.ini", REPORT_BUILD_FILE },
        { "noxfile.py", REPORT_BUILD_FILE },
        { "sitecustomize.py", REPORT_BUILD_FILE },
        { "*.pth", REPORT_BUILD_FILE },
        { "pyvenv.cfg", REPORT_BUILD_FILE },
        { ".venv/bin/*", REPORT_BUILD_FILE },
        { "venv/bin/*", REPORT_BUILD_FILE },
        { "node_modules/.bin/*", REPORT_BUILD_FILE },
        { "Cargo.toml", REPORT_BUILD_FILE },
        { "Cargo.lock", REPORT_BUILD_FILE },
        { "build.rs", REPORT_BUILD_FILE },
        { ".cargo/config.toml", REPORT_BUILD_FILE },
        { "rust-toolchain.toml", REPORT_BUILD_FILE },
        { "build.gradle*", REPORT_BUILD_FILE },
        { "gradle/wrapper/*", REPORT_BUILD_FILE },
        { ".mvn/*", REPORT_BUILD_FILE },
        { "pom.xml", REPORT_BUILD_FILE },
        { ".bazelrc", REPORT_BUILD_FILE },
        { "WORKSPACE", REPORT_BUILD_FILE },
        { "MODULE.bazel", REPORT_BUILD_FILE },
        { "go.mod", REPORT_BUILD_FILE },
        { "go.work", REPORT_BUILD_FILE },
        { "CMakeLists.txt", REPORT_BUILD_FILE },
        { "CMakePresets.json", REPORT_BUILD_FILE },
        { "meson.build", REPORT_BUILD_FILE },
        { "configure", REPORT_BUILD_FILE },
        { "Rakefile", REPORT_BUILD_FILE },
        { "Gemfile", REPORT_BUILD_FILE },
        { ".bundle/config", REPORT_BUILD_FILE },
        { ".rspec", REPORT_BUILD_FILE },
        { ".eslintrc.js", REPORT_BUILD_FILE },
        { "eslint.config.*", REPORT_BUILD_FILE },
        { "prettier.config.*", REPORT_BUILD_FILE },
        { "jest.config.*", REPORT_BUILD_FILE },
        { "vite.config.*", REPORT_BUILD_FILE },
        { "webpack.config.*", REPORT_BUILD_FILE },
        { "babel.config.*", REPORT_BUILD_FILE },
        { ".pylintrc", REPORT_BUILD_FILE },
        { "mypy.ini", REPORT_BUILD_FILE },
        { ".flake8", REPORT_BUILD_FILE },
        { ".tool-versions", REPORT_BUILD_FILE },
        { ".mise.toml", REPORT_BUILD_FILE },
        { ".python-version", REPORT_BUILD_FILE },
        { ".ruby-version", REPORT_BUILD_FILE },
        { ".github/workflows/*", REPORT_BUILD_FILE },
        { ".gitlab-ci.yml", REPORT_BUILD_FILE },
        { "Jenkinsfile", REPORT_BUILD_FILE },
        { ".circleci/*", REPORT_BUILD_FILE },
        { "azure-pipelines.yml", REPORT_BUILD_FILE },
        { "Dockerfile*", REPORT_BUILD_FILE },
        { "compose*.y*ml", REPORT_BUILD_FILE },
        { "docker-compose*.y*ml", REPORT_BUILD_FILE },
        { "Vagrantfile", REPORT_BUILD_FILE },
        { "ansible.cfg", REPORT_BUILD_FILE },
        { "*.tf", REPORT_BUILD_FILE },
        { "*.desktop", REPORT_BUILD_FILE },
        { "*.service", REPORT_BUILD_FILE },
};

/* From any slash on. */
static bool matches(const char *pattern, const char *path)
{
        for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
                if (fnmatch(pattern, p, 0) == 0)
                        return true;
        return false;
}

PrivReportKind report_kind_of(const char *path)
{
        /* What git puts into each new repository and runs nowhere. */
        if (str_has_suffix(path, ".sample") && report_is_inside_git(path))
                return REPORT_CHANGED;
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (matches(names[i].pattern, path))
                        return names[i].kind;
        return REPORT_CHANGED;
}

bool report_is_odd(const char *path)
{
        for (const char *p = path; *p; p++)
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        return true;
        return !str_is_utf8(path, strlen(path));
}

bool report_is_inside_git(const char *path)
{
        return str_has_prefix(path, ".git/") || strstr(path, "/.git/");
}

/* How deep it is above which folder, step by step: below 0 it is outside. */
bool report_link_leaves(const char *workspace, const char *path, const char *target)
{
        size_t n = strlen(workspace);
        int depth = 0;

        if (target[0] == '/') {
                if (strncmp(target, workspace, n) != 0 || (target[n] != '/' && target[n] != '\0'))
                        return true;
                target += n;
        } else {
                for (const char *p = path; *p; p++)
                        depth += *p == '/';
        }
        while (*target) {
                size_t part = strcspn(target, "/");

                if (part == 2 && target[0] == '.' && target[1] == '.')
                        depth--;
                else if (part > 0 && !(part == 1 && target[0] == '.'))
                        depth++;
                if (depth < 0)
                        return true;
                target += part + (target[part] == '/');
        }
        return false;
}
