//! What the rules say of a call, and what is wrong with a file of rules. What they say of which command line, the judge's
//! own tests know.

use serde_json::{Value, json};

use crate::{
    support::{
        Dialect, Door, Model, Setup,
        model::{call, text},
    },
    through_every_door,
};

through_every_door! {
    /// A call is judged by rules, list and mode, without being made.
    a_call_is_judged_without_being_made;
}

/// A server with these rules.
pub fn with_rules(setup: &Setup, rules: &str) -> Setup {
    let file = setup.folder("rules.yaml");
    std::fs::write(&file, rules).expect("a file");
    setup.env("OPENCODE_PERMISSION_RULES", file.display())
}

async fn a_call_is_judged_without_being_made(door: Door) {
    let rules = "rules:\n- {decision: deny, command: rm *}\n- {decision: allow, command: cargo test *}\n\
                 - {decision: deny, tool: write, path: secrets}\n- {decision: ask, path: .env}\n";
    let setup = with_rules(&Setup::new(), rules).env("OPENCODE_PERMISSION_MODE", "ask");
    let server = setup.start();
    let workspace = setup.workspace();
    std::fs::create_dir(workspace.join("secrets")).expect("a folder");
    std::os::unix::fs::symlink("secrets", workspace.join("link")).expect("a link");
    let client = server.through(door);
    let bash = |command: &str| json!({"tool_name": "bash", "input": {"command": command}});
    let write = |path: &str| json!({"tool_name": "write", "input": {"path": path, "content": "x"}});
    let in_mode = |mode: &str, wish: Value| {
        let mut wish = wish;
        wish["permission_mode"] = mode.into();
        wish
    };
    let said = |verdict: &str, by: &str, reason: &str| json!({"verdict": verdict, "by": by, "reason": reason});
    let list = "the list of commands that only read";
    for (wish, expected) in [
        (bash("ls -l | wc -l"), said("allow", "rule", list)),
        (bash("cargo test --all"), said("allow", "rule", "the rule \"allow command `cargo test *`\"")),
        (bash("ls; rm x"), said("deny", "rule", "the rule \"deny command `rm *`\"")),
        (in_mode("auto", bash("ls; rm x")), said("deny", "rule", "the rule \"deny command `rm *`\"")),
        (in_mode("auto", bash("make")), said("allow", "mode", "the mode auto")),
        (in_mode("read_only", bash("cargo test")), said("deny", "mode", "the mode read_only")),
        (in_mode("read_only", bash("git log")), said("allow", "rule", list)),
        (write("a.txt"), said("allow", "mode", "the mode ask")),
        (in_mode("read_only", write("a.txt")), said("deny", "mode", "the mode read_only")),
        (in_mode("auto", write("secrets/a")), said("deny", "rule", "the rule \"deny tool write path `secrets`\"")),
        (write("link/a"), said("deny", "rule", "the rule \"deny tool write path `secrets`\"")),
        (write("link/new/a"), said("deny", "rule", "the rule \"deny tool write path `secrets`\"")),
        (write("x/../secrets/a"), said("deny", "rule", "the rule \"deny tool write path `secrets`\"")),
        (json!({"tool_name": "ls", "input": {}}), said("allow", "mode", "the mode ask")),
    ] {
        let answer = client.evaluate_permission(wish.clone()).await.expect("it is judged").body;
        assert_eq!(answer, expected, "{wish}");
    }
    let asked = client.evaluate_permission(bash("ls && make test")).await.expect("it is judged").body;
    let expected =
        json!({"verdict": "ask", "by": "mode", "reason": "no rule allows `make test`", "grant": "make test *"});
    assert_eq!(asked, expected);
    let asked = client.evaluate_permission(json!({"tool_name": "view", "input": {"path": ".env"}})).await;
    let asked = asked.expect("it is judged").body;
    assert_eq!((&asked["verdict"], &asked["by"], &asked["grant"]), (&json!("ask"), &json!("rule"), &json!(".env")));
    assert!(!workspace.join("a.txt").exists());

    let refused = client.evaluate_permission(json!({"tool_name": "fly", "input": {}})).await.expect_err("no tool");
    assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["tool_name".to_owned()]));
    for wrong in [json!({"tool_name": "bash", "input": {}}), bash(&"x".repeat(200_000))] {
        let refused = client.evaluate_permission(wrong).await.expect_err("no command");
        assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["input".to_owned()]));
    }
    // However many paths may be in a word.
    client.evaluate_permission(bash(&format!("echo {}", ",".repeat(100_000)))).await.expect("it is judged");
}

#[test]
fn rules_that_cannot_be_kept_are_no_start() {
    let setup = Setup::new();
    for (rules, problem) in [("rules: [{decision: deny}]", "needs a tool"), ("rules: 1", "rules.yaml"), ("{}", "rules")]
    {
        let (code, said) = with_rules(&setup, rules).fail_to_start();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("OPENCODE_PERMISSION_RULES") && said.contains(problem), "{said}");
    }
    let (_, said) = setup.env("OPENCODE_PERMISSION_RULES", setup.folder("none.yaml").display()).fail_to_start();
    assert!(said.contains("cannot be read"), "{said}");
    let inside = setup.workspace().join("rules.yaml");
    std::fs::write(&inside, "rules: []").expect("a file");
    let (_, said) = setup.env("OPENCODE_PERMISSION_RULES", inside.display()).fail_to_start();
    assert!(said.contains("lies inside the workspace"), "{said}");
}

/// Also what a tool comes upon by itself, in the mode that allows all else.
#[tokio::test]
async fn what_rules_deny_is_in_no_listing() {
    let calls = vec![
        call("ls", &json!({})),
        call("glob", &json!({"pattern": "**/*.txt"})),
        call("grep", &json!({"pattern": "needle"})),
        call("view", &json!({"path": "other/hidden.txt"})),
        call("view", &json!({"path": "secrets/hidden.txt"})),
    ];
    let model = Model::start(Dialect::Anthropic, [calls, vec![text("Done.")]]).await;
    let rules = "rules:\n- {decision: deny, path: secrets}\n- {decision: deny, tool: grep, path: \"*.key\"}\n";
    let setup = with_rules(&Setup::with(&model), rules);
    for (path, content) in [
        ("secrets/hidden.txt", "needle one\n"),
        ("deep/secrets/hidden.txt", "needle two\n"),
        ("a.key", "needle three\n"),
        ("shown.txt", "needle four\n"),
    ] {
        let path = setup.workspace().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
    let server = setup.start();
    let events = server.rest.say(&json!({"text": "Look."})).await.rest().await;
    let done = events.iter().filter(|event| event.name == "tool_call_completed");
    let mut outputs: Vec<(u64, String)> = done
        .map(|event| {
            let index = event.json["part_index"].as_u64().expect("a number");
            (index, event.json["output"].as_str().expect("a text").to_owned())
        })
        .collect();
    outputs.sort();
    let [(_, ls), (_, glob), (_, grep), (_, first), (_, second)] = outputs.as_slice() else { panic!("{outputs:?}") };
    for output in [ls, glob, grep] {
        assert!(output.contains("shown.txt") && !output.contains("secrets"), "{output}");
        assert_eq!(output.contains("a.key"), output == ls, "{output}");
    }
    for output in [first, second] {
        assert!(!output.contains("needle") && !output.contains("did you mean"), "{output}");
    }
}
