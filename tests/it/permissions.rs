//! Permissions as they are asked for and answered.

use serde_json::{Value, json};

use crate::{
    permission_rules::with_rules,
    support::{
        Dialect, Door, Model, Server, Setup, Sse, grammar,
        model::{bash, call, text},
        names, soon,
        sse::Event,
    },
    through_every_door,
};

through_every_door! {
    /// A request is seen in the stream, the list and the status, and goes on once it is allowed.
    a_request_waits_and_is_allowed;
    /// What is denied is told to the model with its reason; `stop` ends the turn.
    a_denial_is_told_and_stop_ends_the_turn;
}

/// A server in the mode `ask` whose model plays these answers.
pub async fn asking(answers: Vec<Vec<crate::support::Step>>) -> (Setup, Server, Model) {
    let model = Model::start(Dialect::Anthropic, answers).await;
    let setup = Setup::with(&model).asking();
    let server = setup.start();
    (setup, server, model)
}

/// The request that a stream comes to.
pub async fn requested(stream: &mut Sse) -> Value {
    stream.until("permission_requested").await.last().expect("an event").json["permission"].clone()
}

/// The one event of that name.
pub fn only<'a>(events: &'a [Event], name: &str) -> &'a Value {
    let found: Vec<&Event> = events.iter().filter(|event| event.name == name).collect();
    assert_eq!(found.len(), 1, "{name} among {:?}", names(events));
    &found[0].json
}

async fn a_request_waits_and_is_allowed(door: Door) {
    let answers = vec![vec![text("I write."), bash("echo hi > out.txt")], vec![text("Done.")]];
    let (setup, server, _model) = asking(answers).await;
    let client = server.trusted(door);
    let mut stream = server.rest.say(&json!({"text": "Write."})).await;
    let asked = requested(&mut stream).await;
    assert_eq!((&asked["tool_name"], &asked["grant"]), (&json!("bash"), &json!("> out.txt")));
    assert_eq!(asked["default_decision"], "deny");
    assert_eq!(asked["description"], "bash: echo hi > out.txt (no rule allows `> out.txt`)");
    assert_eq!(asked.get("decision"), None);
    let message = server.rest.read(&format!("/messages/{}", asked["message_id"].as_str().expect("an id"))).await;
    let part = &message["parts"][asked["part_index"].as_u64().expect("an index") as usize];
    assert_eq!((&part["type"], &part["id"]), (&json!("tool_call"), &asked["tool_call_id"]));
    let waits = |at: &Value| at.as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    assert_eq!(waits(&asked["deadline"]).duration_since(waits(&asked["requested_at"])).as_secs(), 300);

    let list = client.list_permissions().await.expect("a list").body;
    assert_eq!(list["permissions"], json!([asked]));
    stream.until("agent_status_changed").await;
    let status = client.get_agent_status().await.expect("a status").body;
    assert_eq!(status["status"], "waiting_permission");
    assert!(!setup.workspace().join("out.txt").exists());

    let answered = client.reply_permission(&asked["id"], json!({"decision": "allow_once"})).await;
    let answered = answered.expect("it is taken").body;
    assert_eq!((&answered["decision"], &answered["resolved_by"]), (&json!("allow_once"), &json!("client")));
    let rest = stream.rest().await;
    let resolved = only(&rest, "permission_resolved");
    assert_eq!((&resolved["permission_id"], &resolved["by"]), (&asked["id"], &json!("client")));
    assert_eq!(rest.last().expect("an end").json["finish_reason"], "end_turn");
    assert!(setup.workspace().join("out.txt").exists());
    assert_eq!(client.list_permissions().await.expect("a list").body["permissions"], json!([]));

    let late = client.reply_permission(&asked["id"], json!({"decision": "deny"})).await.expect_err("it is resolved");
    assert_eq!(late.code, "already_resolved");
    let none = client.reply_permission(&json!("perm_none"), json!({"decision": "deny"})).await.expect_err("no such");
    assert_eq!(none.code, "not_found");
    grammar::check(&server.rest.log().await);
}

async fn a_denial_is_told_and_stop_ends_the_turn(door: Door) {
    let answers =
        vec![vec![bash("rm README.md")], vec![bash("rm -f README.md"), bash("ls")], vec![text("Never said.")]];
    let (setup, server, model) = asking(answers).await;
    let client = server.trusted(door);
    let mut stream = server.rest.say(&json!({"text": "Remove it."})).await;
    let first = requested(&mut stream).await;
    let wish = json!({"decision": "deny", "reason": "we need that file"});
    client.reply_permission(&first["id"], wish).await.expect("it is taken");
    let second = requested(&mut stream).await;
    let told = model.asked(1).await.body.to_string();
    assert!(told.contains("the user denied permission: we need that file"), "{told}");
    client.reply_permission(&second["id"], json!({"decision": "stop", "reason": "enough"})).await.expect("it is taken");
    let rest = stream.rest().await;
    assert_eq!(only(&rest, "turn_failed")["code"], "permission_denied");
    assert_eq!(rest.last().expect("an end").json["finish_reason"], "permission_denied");
    assert_eq!(model.journal().len(), 2);
    assert!(setup.workspace().join("README.md").exists());
    let last = server.rest.messages().await.pop().expect("a message");
    let said: Vec<&str> =
        last["parts"].as_array().expect("parts").iter().map(|part| part["content"].as_str().expect("words")).collect();
    assert_eq!(said, ["the user denied permission: enough\nThis was not run.", "not run: the turn was stopped"]);
    grammar::check(&server.rest.log().await);
}

#[tokio::test]
async fn of_two_answers_at_once_one_wins() {
    let (_setup, server, _model) = asking(vec![vec![bash("touch a")], vec![text("Done.")]]).await;
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let asked = requested(&mut stream).await;
    let answers = (0..8).map(|number| {
        let client = server.trusted([Door::Rest, Door::Grpc, Door::GrpcWeb][number % 3]);
        let decision = ["deny", "allow_once"][number % 2];
        let id = asked["id"].clone();
        async move { client.reply_permission(&id, json!({"decision": decision})).await.map(|reply| (decision, reply)) }
    });
    let answers = soon("all answers", futures_util::future::join_all(answers)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(lost.into_iter().all(|outcome| outcome.expect_err("a refusal").code == "already_resolved"));
    let (decision, reply) = won.into_iter().next().expect("one").expect("it was taken");
    assert_eq!(reply.body["decision"], decision);
    let rest = stream.rest().await;
    assert_eq!(only(&rest, "permission_resolved")["decision"], decision);
}

#[tokio::test]
async fn what_only_reads_is_not_asked_and_each_decision_is_told() {
    let answers = vec![
        vec![
            call("view", &json!({"path": "README.md"})),
            call("write", &json!({"path": "new.txt", "content": "x"})),
            bash("ls | wc -l"),
            bash("cargo --version"),
            bash("git push"),
        ],
        vec![text("Done.")],
    ];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let rules = "rules: [{decision: deny, command: git push *}, {decision: allow, command: cargo *}]";
    let setup = with_rules(&Setup::with(&model).asking(), rules);
    let server = setup.start();
    let events = server.rest.say(&json!({"text": "Go."})).await.rest().await;
    let decided: Vec<Value> = events
        .iter()
        .filter(|event| event.name == "permission_resolved")
        .map(|event| json!([event.json["decision"], event.json["by"], event.json["reason"]]))
        .collect();
    let expected = [
        json!(["allow_once", "rule", "the list of commands that only read"]),
        json!(["allow_once", "rule", "the rule \"allow command `cargo *`\""]),
        json!(["deny", "rule", "the rule \"deny command `git push *`\""]),
    ];
    assert_eq!(decided, expected);
    assert!(!names(&events).contains(&"permission_requested"));
    assert_eq!(names(&events).iter().filter(|name| **name == "tool_call_started").count(), 5);
    let told = model.asked(1).await.body.to_string();
    assert!(told.contains("permission denied by the rule"), "{told}");
    assert!(setup.workspace().join("new.txt").exists());
    grammar::check(&server.rest.log().await);
}

#[tokio::test]
async fn the_strict_mode_denies_without_asking() {
    let answers = vec![
        vec![bash("touch a"), bash("git status"), call("write", &json!({"path": "b", "content": "x"}))],
        vec![text("Done.")],
    ];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let setup = Setup::with(&model).env("OPENCODE_PERMISSION_MODE", "read_only");
    let server = setup.start();
    let events = server.rest.say(&json!({"text": "Go."})).await.rest().await;
    let decided: Vec<(&Value, &Value)> = events
        .iter()
        .filter(|event| event.name == "permission_resolved")
        .map(|event| (&event.json["decision"], &event.json["by"]))
        .collect();
    let (allow, deny, rule, mode) = (json!("allow_once"), json!("deny"), json!("rule"), json!("mode"));
    assert_eq!(decided, [(&deny, &mode), (&allow, &rule), (&deny, &mode)]);
    assert!(!setup.workspace().join("a").exists() && !setup.workspace().join("b").exists());
}

#[tokio::test]
async fn a_grant_holds_for_its_pattern_until_reset_and_over_a_restart() {
    let commands = ["make all", "make all V=1", "make clean", "make all", "make all"];
    let answers = commands.iter().flat_map(|command| [vec![bash(command)], vec![text("Done.")]]).collect();
    let (_setup, mut server, _model) = asking(answers).await;
    let client = server.trusted(Door::Rest);
    let mut stream = server.rest.say(&json!({"text": "1"})).await;
    let asked = requested(&mut stream).await;
    assert_eq!(asked["grant"], "make all *");
    client.reply_permission(&asked["id"], json!({"decision": "allow_session"})).await.expect("it is taken");
    stream.rest().await;

    let events = server.rest.say(&json!({"text": "2"})).await.rest().await;
    let decided = only(&events, "permission_resolved");
    assert_eq!((&decided["by"], &decided["reason"]), (&json!("rule"), &json!("a grant of this session")));

    let mut stream = server.rest.say(&json!({"text": "3"})).await;
    let asked = requested(&mut stream).await;
    client.reply_permission(&asked["id"], json!({"decision": "deny"})).await.expect("it is taken");
    stream.rest().await;

    server.restart().await;
    let events = server.rest.say(&json!({"text": "4"})).await.rest().await;
    assert_eq!(only(&events, "permission_resolved")["reason"], "a grant of this session");
    server.rest.post("/session/reset", &json!({})).await.ok();
    let mut stream = server.rest.say(&json!({"text": "5"})).await;
    assert_eq!(requested(&mut stream).await["grant"], "make all *");
}

/// The first turn of the README ends by itself, and asks nobody.
#[tokio::test]
async fn the_demonstration_asks_nothing() {
    let setup = Setup::new().asking();
    let server = setup.start();
    let wish = json!({"text": "Please make a file for me.", "model": "mock/demo"});
    let events = server.rest.say(&wish).await.rest().await;
    assert_eq!(events.last().expect("an end").json["finish_reason"], "end_turn");
    assert!(!names(&events).contains(&"permission_requested"));
    let done = std::fs::read_to_string(setup.workspace().join("hello.txt")).expect("a file");
    assert!(done.contains("was edited"), "{done}");
}
