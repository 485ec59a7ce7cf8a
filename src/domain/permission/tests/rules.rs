//! What rules and grants are about, and what no line may do to the judge.

use super::{super::rules::parse, *};

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
        "bash -eoc pipefail 'rm x'",
        "env - rm x",
        "env -i - rm x",
        "env - A=1 rm x",
        "time A=1 rm x",
        "time -p A=1 rm x",
        "time ! rm x",
        "time time A=1 rm x",
        "eval -- rm x",
        "command eval -- rm x",
        "sudo A=1 rm x",
        "sudo -u root A=1 rm x",
        "setarch x86_64 rm y",
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
        "echo $'\\'; rm x #'",
        "[ a ]#; rm x",
        "{ ls; }#; rm x; }",
        "cat <<'E'#; rm x\nE",
        "\u{feff}#; rm x",
        "[ a || rm ]",
        "[ !\nrm ]",
        "$! rm x",
        "r$!m x",
        "nice -n 0 $! rm x",
        "echo \"${a:-'$(rm x)'}\"",
        "cat <<E\n${a:-'$(rm x)'}\nE",
        "eval 2>&- 'rm x'",
        "echo x | xargs 2>&- rm",
        "echo rm x | xargs env",
        "echo rm | xargs -I% env % x",
        "xargs -I% nice % x <<< rm",
        "coproc rm x",
        "let 'a[$(rm x)]'",
        "[[ 'a[$(rm x)]' -eq 0 ]]",
        "read 'a[$(rm x)]' <<<1",
        "test -v 'a[$(rm x)0]'",
        "printf -v 'a[$(rm x)]' 1",
        "declare 'a[$(rm x)]=1'",
        "x='$(rm x)'; echo \"${x@P}\"",
        "PS4='$(rm x)'; set -x; ls",
        "hash -p /bin/rm foo; foo x",
        "alias q=rm\nq x",
        "mapfile -C 'rm x' -c 1 <<<a",
        "compgen -C 'rm x'",
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
