//! Requests that nobody answers: a deadline, nobody there, a cancel, a restart.

use serde_json::{Value, json};

use crate::{
    permissions::{asking, only, requested},
    support::{
        Dialect, Door, Event, Model, Setup, grammar,
        model::{bash, text},
        soon,
    },
};

/// What became of the requests of a turn: decision and by what.
fn resolved(events: &[Event]) -> Vec<(String, String)> {
    let texts = |event: &Event| {
        (event.json["decision"].as_str().expect("one").to_owned(), event.json["by"].as_str().expect("one").to_owned())
    };
    events.iter().filter(|event| event.name == "permission_resolved").map(texts).collect()
}

async fn unanswered(settings: &[(&str, &str)]) -> (Vec<Event>, Value) {
    let model = Model::start(Dialect::Anthropic, [vec![bash("touch a")], vec![text("Done.")]]).await;
    let setup = settings.iter().fold(Setup::with(&model).asking(), |setup, (name, value)| setup.env(name, value));
    let server = setup.start();
    let events = server.rest.say(&json!({"text": "Go."})).await.rest().await;
    assert!(!setup.workspace().join("a").exists());
    grammar::check(&server.rest.log().await);
    let asked = only(&events, "permission_requested")["permission"].clone();
    (events, asked)
}

#[tokio::test]
async fn a_deadline_denies() {
    let (events, asked) = unanswered(&[("OPENCODE_PERMISSION_TIMEOUT", "1")]).await;
    assert_eq!(asked["default_decision"], "deny");
    assert_eq!(resolved(&events), [("deny".into(), "timeout".into())]);
    assert_eq!(events.last().expect("an end").json["finish_reason"], "end_turn");
}

#[tokio::test]
async fn a_deadline_stops_where_it_is_set_so() {
    let settings = [("OPENCODE_PERMISSION_TIMEOUT", "1"), ("OPENCODE_PERMISSION_DEFAULT", "stop")];
    let (events, asked) = unanswered(&settings).await;
    assert_eq!(asked["default_decision"], "stop");
    assert_eq!(resolved(&events), [("stop".into(), "timeout".into())]);
    assert_eq!(only(&events, "turn_failed")["code"], "permission_denied");
    assert_eq!(events.last().expect("an end").json["finish_reason"], "permission_denied");
}

#[tokio::test]
async fn nobody_is_waited_for_who_is_not_there() {
    let answers = [vec![bash("touch a")], vec![text("Done.")], vec![bash("touch a")], vec![text("Done.")]];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let setup = Setup::with(&model).asking().env("OPENCODE_PERMISSION_ABSENCE_SECONDS", "1");
    let server = setup.start();
    // Who waits for JSON cannot answer.
    let turn = server.rest.ask("Go.").await["turn"].clone();
    assert_eq!(turn["finish_reason"], "end_turn");
    assert_eq!(resolved(&server.rest.log().await), [("deny".into(), "no_client".into())]);

    // As long as somebody is there, it waits; when they leave, it does not.
    let mut stream = server.rest.stream("/events").await;
    let turn = server.rest.begin("Again.").await;
    requested(&mut stream).await;
    drop(stream);
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    let all = resolved(&server.rest.log().await);
    assert_eq!(all, [("deny".into(), "no_client".into()), ("deny".into(), "no_client".into())]);
}

/// Without a client of any kind, with the time that is usual.
#[tokio::test]
async fn a_turn_without_a_client_ends_by_itself() {
    let (_setup, server, _model) = asking(vec![vec![bash("touch a")], vec![text("Done.")]]).await;
    let turn = server.rest.begin("Go.").await;
    let ended = server.rest.ended_turn(&turn["id"]).await;
    assert_eq!(ended["finish_reason"], "end_turn");
    assert_eq!(resolved(&server.rest.log().await), [("deny".into(), "no_client".into())]);
}

#[tokio::test]
async fn a_cancel_closes_what_waits() {
    let (_setup, server, _model) = asking(vec![vec![bash("touch a"), bash("touch b")]]).await;
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let asked = requested(&mut stream).await;
    let client = server.trusted(Door::Rest);
    let canceled = client.cancel_agent(json!({})).await.expect("a cancel").body;
    assert_eq!(canceled["canceled"], true);
    let rest = stream.rest().await;
    assert_eq!(resolved(&rest), [("deny".into(), "cancel".into())]);
    assert_eq!(rest.last().expect("an end").json["finish_reason"], "canceled");
    assert_eq!(client.list_permissions().await.expect("a list").body["permissions"], json!([]));
    let late = client.reply_permission(&asked["id"], json!({"decision": "allow_once"})).await.expect_err("it is over");
    assert_eq!(late.code, "already_resolved");
    grammar::check(&server.rest.log().await);
}

#[tokio::test]
async fn a_crash_denies_by_interruption() {
    let (setup, mut server, model) = asking(vec![vec![bash("touch a")]]).await;
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let asked = requested(&mut stream).await;
    server.crash_and_restart();
    let log = server.rest.log().await;
    assert_eq!(resolved(&log), [("deny".into(), "interruption".into())]);
    assert_eq!(log.last().expect("an end").json["finish_reason"], "error");
    let client = server.trusted(Door::Grpc);
    assert_eq!(client.list_permissions().await.expect("a list").body["permissions"], json!([]));
    let late = client.reply_permission(&asked["id"], json!({"decision": "allow_once"})).await.expect_err("it is over");
    assert_eq!(late.code, "already_resolved");
    assert_eq!(client.get_agent_status().await.expect("a status").body["status"], "idle");
    grammar::check(&log);

    // And so does an end that is asked for.
    model.then(vec![bash("touch a")]);
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    requested(&mut stream).await;
    soon("a restart", server.restart()).await;
    let all = resolved(&server.rest.log().await);
    assert_eq!(all.last().expect("one"), &("deny".to_owned(), "interruption".to_owned()));
    assert!(!setup.workspace().join("a").exists());
}
