//! A disk that takes no more: nothing unstored is shown, nobody is busy for ever, and it goes on by itself.

use serde_json::{Value, json};

use crate::{
    support::{
        Dialect, Door, Gate, Model, Setup, Step, grammar,
        model::{call, text},
        until,
    },
    through_every_door,
};

/// Less than any file of the log has: every write to it fails.
const FULL: Option<u64> = Some(4096);

through_every_door! {
    a_full_disk_refuses_messages_and_lets_read;
    a_turn_that_meets_a_full_disk_ends;
}

fn say(words: &str) -> Value {
    json!({"parts": [{"type": "text", "text": words}]})
}

async fn a_full_disk_refuses_messages_and_lets_read(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![text("One.")], vec![text("Two.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    server.rest.ask("First.").await;
    let mut follower = server.rest.stream("/events").await;
    let log = server.rest.log().await;

    server.limit_files(FULL);
    let Err(refusal) = client.begin_turn(say("Second.")).await else { panic!("a full disk accepts") };
    assert_eq!((refusal.code.as_str(), refusal.retryable), ("insufficient_storage", true), "{refusal:?}");
    let closed = follower.event().await.expect("an end");
    assert_eq!((closed.name.as_str(), &closed.json["code"]), ("stream_closed", &json!("insufficient_storage")));
    assert_eq!(follower.event().await, None);
    assert_eq!(server.rest.log().await, log, "nothing of it is there, and what was there is read");
    assert_eq!(server.rest.get("/health").await.json_with(503)["checks"]["store"], "failing");
    assert_eq!(client.get_agent_status().await.expect("a status").body["status"], "error");

    server.limit_files(None);
    let sent = server.rest.ask("Third.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    assert_eq!(server.rest.get("/health").await.ok()["checks"]["store"], "ok");
    grammar::check(&server.rest.log().await);
}

async fn a_turn_that_meets_a_full_disk_ends(door: Door) {
    let (gate, silence) = (Gate::new(), Gate::new());
    // The model says nothing more of itself that would show what became of its last word.
    let ls = call("ls", &json!({"path": "."}));
    let first = vec![text("Here "), Step::Wait(gate.clone()), text("stops."), Step::Wait(silence.clone()), ls];
    let model = Model::start(Dialect::Anthropic, [first, vec![text("Well.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let begun = client.begin_turn(say("Go.")).await.expect("a turn").body;
    let mut follower = server.rest.stream("/events?after=0").await;
    follower.until("content_delta").await;

    server.limit_files(FULL);
    gate.open();
    let rest = follower.rest().await;
    assert_eq!(rest.last().map(|event| event.name.as_str()), Some("stream_closed"), "{rest:?}");
    assert!(!rest.iter().any(|event| event.json["text"] == "stops."), "what is not stored is not shown");
    until("the end of the turn", async || {
        let status = client.get_agent_status().await.expect("a status").body["status"].clone();
        (status == "error").then_some(())
    })
    .await;

    server.limit_files(None);
    // Without anybody's doing.
    let broken = until("the end of the turn that met it", async || {
        let turn = client.get_turn(&begun["id"], 0).await.expect("a turn").body;
        (turn["status"] == "completed").then_some(turn)
    });
    assert_eq!(broken.await["finish_reason"], "error");
    let sent = client.begin_turn(say("Again.")).await.expect("nobody is busy").body;
    let turn = server.rest.ended_turn(&sent["id"]).await;
    assert_eq!(turn["finish_reason"], "end_turn");
    grammar::check(&server.rest.log().await);
}
