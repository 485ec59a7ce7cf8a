//! How long a turn waits for versions of the workspace that are not there yet.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Dialect, Event, Model, Setup, Value,
    model::{bash, text},
};

async fn model() -> Model {
    Model::start(Dialect::Anthropic, [vec![bash("echo made > made.txt")], vec![text("Done.")]]).await
}

fn at(event: &Event) -> jiff::Timestamp {
    event.json["at"].as_str().expect("a time").parse().expect("RFC 3339")
}

/// From one event of a turn to another.
fn between(events: &[Event], one: &str, other: &str) -> Duration {
    let last = |name: &str| events.iter().rfind(|event| event.name == name).unwrap_or_else(|| panic!("no {name}"));
    at(last(other)).duration_since(at(last(one))).try_into().expect("they are in order")
}

/// What the wait before the first tool that writes has used is not there at the end.
#[tokio::test]
async fn a_turn_waits_for_versions_no_longer_than_its_budget() {
    let model = model().await;
    let budget = Duration::from_secs(3);
    let setup = Setup::with(&model).env("OPENCODE_VERSION_WAIT_SECONDS", budget.as_secs());
    let held = setup.hold_versions();
    let server = setup.start();
    let mut told = server.rest.stream("/events?types=files_changed,turn_completed").await;
    let events = server.rest.say(&json!({"text": "Go on."})).await.rest().await;
    let before = between(&events, "tool_call_started", "tool_call_completed");
    let after = between(&events, "message_completed", "turn_completed");
    assert!(before >= budget - Duration::from_millis(50), "it waited {before:?}: the setting counts");
    assert!(after < budget / 2, "it waited {before:?} before, and again {after:?}");
    let ended = told.next().await.json;
    assert_eq!((&ended["type"], ended.get("version_before")), (&json!("turn_completed"), None), "{ended}");
    assert_eq!(ended.get("version_after"), None);
    assert_eq!(std::fs::read(server.workspace().join("made.txt")).expect("a file"), b"made\n");
    held.let_go();
    assert_eq!(server.version_by("baseline").await["id"], "v1");
}

#[tokio::test]
async fn a_turn_with_no_budget_waits_for_nothing() {
    let model = model().await;
    let setup = Setup::with(&model).env("OPENCODE_VERSION_WAIT_SECONDS", 0);
    let held = setup.hold_versions();
    let server = setup.start();
    // Nothing else would ever let it go.
    let ended: Value = server.rest.ask("Go on.").await["turn"].clone();
    assert_eq!((ended.get("version_before"), ended.get("version_after")), (None, None), "{ended}");
    assert_eq!(ended["finish_reason"], "end_turn");
    held.let_go();
    server.version_by("baseline").await;
}
