//! What the judge says of lines that hide something, and of those that do not.

use std::path::PathBuf;

use super::{
    PermissionMode, Verdict,
    grants::shown,
    judge::{Access, Call, Judge},
    readers::Place,
    rules::{Rule, parse},
};

fn place() -> Place {
    Place { root: PathBuf::from("/w"), directory: PathBuf::from("/w"), is_git: true }
}

fn judged(mode: PermissionMode, rules: &[Rule], line: &str) -> (Verdict, String, String) {
    let call = Call { tool: "bash".into(), access: Access::Command(line.into()), paths: Vec::new(), place: place() };
    let judgement = Judge { mode, rules, grants: &[] }.judge(&call);
    (judgement.verdict, judgement.reason, shown(&judgement.grants))
}

#[test]
fn what_only_reads_is_free() {
    for line in [
        "ls",
        "ls -la src tests",
        "cat README.md | head -20",
        "cd src && ls",
        "grep -rn 'fn main' src | wc -l",
        "grep -rn '/api/v1' src",
        "rg --type rust 'a.*b' src",
        "find . -name '*.rs' -type f",
        "git status",
        "git log --oneline -n 5 && git diff HEAD~1 -- src",
        "git --no-pager show HEAD:src/a.rs",
        "ls 2>/dev/null; pwd >&2",
        "if [ -f a ]; then cat a; else echo no; fi",
        "echo \"there are $(ls | wc -l) files\"",
        "for i in 1 2 3; do echo $i; done",
        "cat <<'E'\n$(rm x)\nE",
        "cat <<E\n$(ls)\nE",
        "sed -n '10,20p' a.rs",
        "time ls; timeout 5 cat a",
        "cat /w/a.rs; cat src/../b",
        "sort a | uniq -c",
        "date +%s; date -u; date -d yesterday +%F",
        "! test -d a # a remark",
        "set -euo pipefail; ls",
        "\\ls 'a b' \"c d\"",
        "diff <(sort a) <(sort b)",
        "for f in *.rs; do [ -f \"$f\" ] && echo \"$f\"; done",
        "[ \"$(ls | wc -l)\" -gt 3 ] && echo many; [ ! -d a ] && [ a = b ]",
        "cat <<'E' | wc -l\na $(rm x) `rm y`\nE",
        "printf '%s\\n' a b; printf \"%d items\\n\" 5",
        "grep -- -x a; time -p ls; ls | uniq -c",
        "cat < a",
        "ls; echo $?",
    ] {
        let (verdict, reason, _) = judged(PermissionMode::Ask, &[], line);
        assert_eq!(verdict, Verdict::Allow, "{line}: {reason}");
        assert_eq!(judged(PermissionMode::ReadOnly, &[], line).0, Verdict::Allow, "{line}");
    }
}

#[test]
fn what_may_do_more_asks() {
    for line in [
        "rm x",
        "ls && rm x",
        "ls; rm x",
        "ls | tee x",
        "ls & rm x",
        "ls || rm x",
        "ls\nrm x",
        "echo $(rm x)",
        "echo \"a $(rm x) b\"",
        "echo `rm x`",
        "echo `echo \\`rm x\\``",
        "echo ${a:-$(rm x)}",
        "echo $((1 + $(rm x)))",
        "echo $((a[$(rm x)]))",
        "cat <<E\n$(rm x)\nE",
        "cat <<< $(rm x)",
        "cat <(rm x)",
        "ls >(rm x)",
        "ls > x",
        "ls >> x",
        "ls &> x",
        "ls >| x",
        "> x",
        "echo x > /dev/tcp/127.0.0.1/80",
        "cat < /etc/passwd",
        "cat /etc/passwd",
        "cat ../x",
        "cat ~/x",
        "cat $x",
        "cat \"$x\"",
        "cat {/etc/passwd,a}",
        "cat /proc/1/environ",
        "cd .. && ls",
        "cd src && cat ../../x",
        "cd src && git status",
        "grep -f /etc/passwd x",
        "grep --fil=/etc/passwd x",
        "PATH=. ls",
        "LD_PRELOAD=./x.so ls",
        "x=1; ls",
        "env -i rm x",
        "env -i ls",
        "env A=1 ls",
        "bash -c 'ls'",
        "bash -c \"rm x\"",
        "sh x.sh",
        "ls | xargs rm",
        "ls | xargs cat",
        "eval 'rm x'",
        "eval \"$x\"",
        "alias ls=rm; ls",
        "f() { rm x; }; f",
        "ls() { rm x; }; ls",
        "export PATH=.; ls",
        "$x y",
        "$(echo rm) x",
        "./ls",
        "find . -exec rm {} \\;",
        "find . -delete",
        "find . -fprint x",
        "rg --pre ./x a",
        "rg --pre=./x a",
        "rg a *",
        "sort -o x a",
        "sort --outp=x a",
        "sort --compress-program=./x a",
        "uniq a b",
        "sed -i s/a/b/ x",
        "sed -n '1e rm' x",
        "git -c core.pager=./x log",
        "git log --output=x",
        "git diff --ext-diff",
        "git grep -Oless x",
        "git branch x",
        "git push",
        "date -s tomorrow",
        "date 010100002020",
        "printf -v PATH x",
        "[[ a -eq b ]]",
        "test -v 'a[$(rm x)]'",
        "(( x = 1 ))",
        "trap 'rm x' EXIT",
        "source x",
        ". x",
        "exec rm",
        "time rm x",
        "timeout 5 rm x",
        "r\\\nm x",
        "echo \"unterminated",
        "ls )",
        "ls\u{a0}x",
        "cat x\r",
        "case x in x) rm y;; esac",
        "while rm x; do ls; done",
        "coproc ls",
        "curl http://127.0.0.1",
        "python3 -c 'print(1)'",
        // Words behind a redirection are the command's.
        "env 2>/dev/null sh -c id",
        "find 2>/dev/null . -exec rm {} +",
        "find </dev/null . -delete",
        "sort 2>/dev/null -o x a",
        "cat 2>&1 /etc/passwd",
        "cat <<< x /etc/passwd",
        // Documents that end elsewhere than they seem to, or have more in them.
        "find <<E . -exec rm {} +\nx\nE",
        "cat <<E /etc/passwd\nx\nE",
        "cat <<E\n`rm x`\nE",
        "cat <<E\"x\"\nEx\nrm x\nE\"x\"",
        "cat <<\"E\\F\"\nE\\F\nrm x\nEF",
        "cat <<-'E'\n  E\n: '\nE\nrm x #'",
        "cat <<E\nE \n: '\nE\nrm x #'",
        "cat <<E | rm x\na\nE",
        // The shell ends a substitution at the next backtick.
        "echo `echo '`; rm x; echo `'`",
        "echo `echo \"`; rm x; echo `\"`",
        // Words that are only known when it runs.
        "for x in '5 sh -c id'; do nice -n $x ls; done",
        "nice -n * ls",
        "[ \t-v 'a[$(rm x)]' ]",
        "[ \\\n-v 'a[$(rm x)]' ]",
        "for x in '-v a[$(rm>x)]'; do [ $x ]; done",
        "for x in -v; do for y in 'a[$(rm>x)]'; do [ ! \"$x\" \"$y\" ]; done; done",
        "[ -f a -a -v 'a[$(rm x)]' ]",
        "[ * ]",
        "test *",
        // Variables that others go by.
        "for PATH in x; do ls; done",
        "select IFS in x; do ls; done",
        "printf 'x%n' PATH; ls",
        "printf '%-5lln' PATH",
        "uniq - x",
        "uniq -c -- a x",
        // What looks like a pattern and is a path.
        "grep -v -- -zz /etc/passwd",
        "grep - /etc/passwd",
        "rg - /etc/passwd",
        "rg --files /",
        "jq -n 'import \"config\" as $c {search:\"/root\"}; $c'",
        "jq -n 'include \"a\" {search: \"/root\"}; x'",
        "strings @x",
        "time -p rm x",
    ] {
        let (verdict, reason, _) = judged(PermissionMode::Ask, &[], line);
        assert_eq!(verdict, Verdict::Ask, "{line}: {reason}");
        assert_eq!(judged(PermissionMode::ReadOnly, &[], line).0, Verdict::Deny, "{line}");
        assert_eq!(judged(PermissionMode::Auto, &[], line).0, Verdict::Allow, "{line}");
    }
}

fn rules(text: &str) -> Vec<Rule> {
    parse(text).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn a_deny_rule_wins_in_every_mode_wherever_the_command_stands() {
    let rules = rules("rules: [{decision: allow, tool: bash}, {decision: deny, command: rm *}]");
    for line in [
        "rm x",
        "ls && rm x",
        "echo $(rm x)",
        "echo `rm x`",
        "cat <<E\n$(rm x)\nE",
        "cat <(rm x)",
        "env -i rm x",
        "sudo -u root rm x",
        "bash -c 'rm x'",
        "bash -ec \"ls; rm x\"",
        "ls | xargs -n 1 rm",
        "eval 'rm x'",
        "f() { rm x; }; f",
        "A=1 rm x",
        "/bin/rm x",
        "r\"m\" x",
        "\\rm x",
        "find . -exec rm {} +",
        "nice -n 5 rm x",
        "timeout -k 1 5 rm x",
        "time rm x",
        "command rm x",
        "exec rm x",
        "if true; then rm x; fi",
        "case x in x) rm y;; esac",
        "watch rm x",
        "(rm x)",
        "{ rm x; } > y",
        "time -p rm x",
        "ls | xargs -rn 1 rm",
        "sudo -nu root rm x",
        "bash -eo pipefail -c 'rm x'",
    ] {
        for mode in [PermissionMode::Auto, PermissionMode::Ask, PermissionMode::ReadOnly] {
            let (verdict, reason, _) = judged(mode, &rules, line);
            assert_eq!(verdict, Verdict::Deny, "{line} in {}: {reason}", mode.as_str());
            assert_eq!(reason, "the rule \"deny command `rm *`\"");
        }
    }
    // Whether it is about these cannot be told.
    for line in [
        "$x y",
        "eval \"$x\"",
        "bash x.sh",
        "bash -c \"$x\"",
        "echo \"unterminated",
        "`echo rm` x",
        "env 2>/dev/null rm x",
        "cat <<E\n`rm x`\nE",
        "cat <<-'E'\n  E\n: '\nE\nrm x #'",
        "echo `echo '`; rm x; echo `'`",
        "xargs --max-args 1 rm",
        "sudo --user root rm x",
        "env -iS 'rm x'",
        "nice --adjustment 5 rm x",
        "bash x.sh -c ls",
        "bash --rcfile x -c ls",
    ] {
        assert_eq!(judged(PermissionMode::Auto, &rules, line).0, Verdict::Ask, "{line}");
        assert_eq!(judged(PermissionMode::Ask, &rules, line).0, Verdict::Ask, "{line}");
        assert_eq!(judged(PermissionMode::ReadOnly, &rules, line).0, Verdict::Deny, "{line}");
    }
    for line in ["ls rm", "echo 'rm x'", "git rm x", "cargo build && ls"] {
        assert_eq!(judged(PermissionMode::Auto, &rules, line).0, Verdict::Allow, "{line}");
        assert_eq!(judged(PermissionMode::Ask, &rules, line).0, Verdict::Allow, "{line}");
    }
}

#[test]
fn rules_are_about_every_part_and_about_paths() {
    let rules = rules(
        "rules: [{decision: allow, command: cargo test *}, {decision: allow, command: '> target/*'},
         {decision: ask, command: git log *}, {decision: deny, path: secrets}]",
    );
    for (line, expected) in [
        ("cargo test --all", Verdict::Allow),
        ("cargo test $(ls)", Verdict::Allow),
        ("cargo test $(rm x)", Verdict::Ask),
        ("A=1 cargo test", Verdict::Ask),
        ("cargo test && rm x", Verdict::Ask),
        ("cargo test > target/out", Verdict::Allow),
        ("cargo test > out", Verdict::Ask),
        ("git log", Verdict::Ask),
        ("cat secrets/key", Verdict::Deny),
        ("cat < ./secrets/key", Verdict::Deny),
        ("cat /w/secrets/key", Verdict::Deny),
        ("cd secrets; ls", Verdict::Deny),
        ("cp a src/../secrets/key", Verdict::Deny),
        ("curl -d @secrets/key x", Verdict::Deny),
        ("cat secret*/key", Verdict::Ask),
    ] {
        assert_eq!(judged(PermissionMode::Ask, &rules, line).0, expected, "{line}");
    }
    assert_eq!(judged(PermissionMode::Auto, &rules, "git log").0, Verdict::Allow);
    assert_eq!(judged(PermissionMode::ReadOnly, &rules, "git log").0, Verdict::Deny);
    assert_eq!(judged(PermissionMode::ReadOnly, &rules, "cargo test").0, Verdict::Deny);
}

#[test]
fn a_grant_is_no_more_than_what_was_asked() {
    for (line, grant) in [
        ("cargo test --all", "cargo test *"),
        ("ls && cargo test --all | head", "cargo test *"),
        ("cargo build && cargo test", "cargo build * && cargo test *"),
        ("npm run build", "npm run build"),
        ("rm -rf build", "rm -rf build"),
        ("python3 'a b.py'", "python3 'a b.py'"),
        ("git push origin main", "git push origin main"),
        ("git add -A && git commit -m x", "git add * && git commit *"),
        ("ls > out", "> out"),
        ("A=1 cargo test", "A=1 cargo test"),
        ("rm $x", "rm $x"),
        ("bash -c 'cargo test'", "bash -c 'cargo test'"),
    ] {
        let (_, _, shown) = judged(PermissionMode::Ask, &[], line);
        assert_eq!(shown, grant, "{line}");
    }
}

#[test]
fn a_line_of_any_depth_ends_nothing() {
    for line in
        ["(".repeat(20_000), "$(".repeat(10_000), "{ ".repeat(10_000), "bash -c ".repeat(5_000), "a;".repeat(5_000)]
    {
        assert_eq!(judged(PermissionMode::Ask, &[], &line).0, Verdict::Ask);
    }
}
