//! What runs: the status, cancel at any moment, one turn at a time.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Door, Event, Gate, Model, Server, Setup, Step, Value,
        model::{bash, text},
        names, soon, until,
        wire::Said,
    },
    through_every_door,
};

through_every_door! {
    the_status_says_what_runs;
    one_turn_at_a_time;
    cancel_with_nothing_running;
    cancel_ends_the_turn_and_answers_when_it_is_stored;
}

in_both_dialects! {
    cancel_while_the_model_streams;
    cancel_while_the_model_drips;
    cancel_while_the_model_is_silent;
    cancel_while_a_retry_is_waited_for;
    cancel_ends_processes_that_ignore_it;
}

/// A server whose model says a word and then waits for a gate.
async fn talking(dialect: Dialect) -> (Model, Server, Gate) {
    let gate = Gate::new();
    let model = Model::start(dialect, [vec![text("I am "), Step::Wait(gate.clone()), text("here.")]]).await;
    let server = Setup::with(&model).start();
    (model, server, gate)
}

async fn the_status_says_what_runs(door: Door) {
    let (model, server, gate) = talking(Dialect::Anthropic).await;
    let client = server.through(door);
    let reply = client.get_agent_status().await.expect("a status");
    assert_eq!(reply.body, json!({"status": "idle", "model": model.id()}));
    assert!(reply.cursor.is_some());
    let mut stream = server.rest.say(&json!({"text": "Who are you?"})).await;
    let events = stream.until("content_delta").await;
    let status = client.get_agent_status().await.expect("a status").body;
    let expected = json!({
        "status": "processing",
        "current_operation": format!("calling {}", model.id()),
        "started_at": events[2].json["at"],
        "model": model.id(),
        "turn_id": events[0].turn_id(),
    });
    assert_eq!(status, expected);
    gate.open();
    let ended = stream.rest().await;
    let status = client.get_agent_status().await.expect("a status").body;
    let turn = client.get_turn(events[0].turn_id(), 0).await.expect("a turn").body;
    let expected = json!({"status": "idle", "model": model.id(), "last_turn": turn,
        "started_at": ended[ended.len() - 2].json["at"]});
    assert_eq!(status, expected);
}

async fn one_turn_at_a_time(door: Door) {
    let (model, server, gate) = talking(Dialect::OpenAi).await;
    let client = server.through(door);
    let wish = json!({"parts": [{"type": "text", "text": "Hello."}]});
    // Of many at once exactly one begins.
    let calls = (0..8).map(|_| client.begin_turn(wish.clone()));
    let outcomes = futures_util::future::join_all(calls).await;
    let begun: Vec<&Value> = outcomes.iter().filter_map(|outcome| Some(&outcome.as_ref().ok()?.body)).collect();
    let [turn] = begun.as_slice() else { panic!("not one: {outcomes:?}") };
    assert_eq!(turn["status"], "running");
    for refusal in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!((refusal.code.as_str(), refusal.retryable), ("agent_busy", true));
        assert!(refusal.detail.contains(turn["id"].as_str().expect("an id")), "it names the turn: {}", refusal.detail);
    }
    assert_eq!(client.send_message(wish.clone()).await.err().expect("a refusal").code, "agent_busy");
    let mut events = client.stream_events(json!({"after": "0"})).await.expect("a stream");
    gate.open();
    events.until("turn_completed").await;
    // Who has seen turn_completed can send the next.
    for _ in 0..5 {
        model.then(vec![text("Yes.")]);
        client.send_message(wish.clone()).await.expect("not busy").until("turn_completed").await;
    }
    assert_eq!(client.list_turns(json!({})).await.expect("a list").body["pagination"]["total"], 6);
}

async fn cancel_with_nothing_running(door: Door) {
    let (_model, server, _) = talking(Dialect::OpenAi).await;
    let client = server.through(door);
    let nothing = json!({"canceled": false, "processes_ended": [], "processes_left": [], "took_ms": 0});
    let canceled = async |wish: Value| {
        let mut body = client.cancel_agent(wish).await.expect("an answer").body;
        // How long it took is no matter.
        body["took_ms"] = json!(0);
        body
    };
    assert_eq!(canceled(json!({})).await, nothing);
    assert_eq!(canceled(json!({"turn_id": "turn_of_nobody"})).await, nothing);
    assert!(server.rest.log().await.is_empty(), "nothing is touched");
}

async fn cancel_ends_the_turn_and_answers_when_it_is_stored(door: Door) {
    let (model, server, _gate) = talking(Dialect::Anthropic).await;
    let client = server.through(door);
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    let begun = stream.until("content_delta").await;
    let id = begun[0].turn_id();
    let stale = client.cancel_agent(json!({"turn_id": "turn_of_nobody"})).await.expect_err("a refusal");
    assert_eq!((stale.code.as_str(), stale.retryable), ("stale_turn", false));
    assert!(stale.detail.contains(id.as_str().expect("an id")));
    assert_eq!(client.get_agent_status().await.expect("a status").body["status"], "processing", "nothing is touched");

    // A second one joins the first.
    let (first, second) = tokio::join!(client.cancel_agent(json!({ "turn_id": id })), client.cancel_agent(json!({})));
    let canceled: Vec<Value> = [first, second].into_iter().map(|reply| reply.expect("an answer").body).collect();
    // Already in the log when it is answered.
    let log = server.rest.log().await;
    assert_eq!(log.last().expect("an event").name, "turn_completed");
    assert!(canceled.iter().any(|body| body["canceled"] == true), "{canceled:?}");
    for body in canceled.iter().filter(|body| body["canceled"] == true) {
        assert!(body["took_ms"].as_u64().is_some_and(|took| took < 3000));
        assert_eq!((&body["turn_id"], &body["processes_ended"]), (id, &json!([])));
    }
    let mut turn = client.get_turn(id, 0).await.expect("a turn").body;
    // Whether the workspace was looked at before the cancel is a matter of milliseconds.
    for version in ["version_before", "version_after"] {
        turn.as_object_mut().expect("a turn").remove(version);
    }
    let last = log.last().expect("an event");
    let expected = json!({
        "id": id,
        "status": "completed",
        "finish_reason": "canceled",
        "error": {"code": "canceled", "message": turn["error"]["message"], "retryable": false},
        "model": model.id(),
        "user_message_id": begun[0].json["message"]["id"],
        "message_id": begun.last().expect("an event").json["message_id"],
        "usage": last.json["usage"],
        "timeline": turn["timeline"],
        "created_at": turn["created_at"],
        "started_at": turn["started_at"],
        "finished_at": last.json["at"],
        "first_cursor": begun[0].id,
        "last_cursor": turn["last_cursor"],
    });
    assert_eq!(turn, expected);
    model.left(1).await;
}

/// Cancels what runs, checks how it ended, and that the next message works. Answers the cancel and the turn's events.
async fn cancel(server: &Server, model: &Model, stream: &mut crate::support::Sse) -> (Value, Vec<Event>) {
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    assert_eq!(canceled["canceled"], true);
    let events = stream.rest().await;
    let end = &events[events.len() - 3..];
    assert_eq!(names(end), ["turn_failed", "agent_status_changed", "turn_completed"]);
    assert_eq!((&end[0].json["code"], &end[2].json["finish_reason"]), (&json!("canceled"), &json!("canceled")));
    model.then(vec![text("At your service.")]);
    let sent = server.rest.ask("Again.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    check_against_reads(server).await;
    (canceled, events)
}

async fn cancel_while_the_model_streams(dialect: Dialect) {
    let (model, server, _gate) = talking(dialect).await;
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    stream.until_said("am ").await;
    cancel(&server, &model, &mut stream).await;
    model.left(1).await;
    // What was said before the cancel was said.
    let told = model.asked(1).await.conversation();
    let expected = [Said::User("Talk.".into()), Said::Model("I am ".into()), Said::User("Again.".into())];
    assert_eq!(told, expected);
}

async fn cancel_while_the_model_drips(dialect: Dialect) {
    let drip = Step::Slowly("drip ".repeat(10_000), Duration::from_millis(5));
    let model = Model::start(dialect, [vec![drip]]).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    stream.until_said("drip ").await;
    cancel(&server, &model, &mut stream).await;
    model.left(1).await;
}

async fn cancel_while_the_model_is_silent(dialect: Dialect) {
    let model = Model::start(dialect, [vec![Step::Stall]]).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    model.asked(0).await;
    let (_, events) = cancel(&server, &model, &mut stream).await;
    model.left(1).await;
    assert!(!names(&events).contains(&"message_completed"), "a call that gave nothing leaves no message");
}

async fn cancel_while_a_retry_is_waited_for(dialect: Dialect) {
    let later = vec![("retry-after", "30".to_owned())];
    let overloaded = Step::Http { status: 529, headers: later, body: json!({"error": {"message": "Overloaded"}}) };
    let model = Model::start(dialect, [vec![overloaded]]).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    let retry = stream.until("model_retry").await.pop().expect("an event").json;
    assert_eq!((&retry["attempt"], &retry["of"], &retry["delay_ms"]), (&json!(1), &json!(8), &json!(30_000)));
    assert_eq!(retry["code"], "provider_unavailable");
    cancel(&server, &model, &mut stream).await;
}

async fn cancel_ends_processes_that_ignore_it(dialect: Dialect) {
    let stubborn = "trap '' TERM; echo $$; while :; do sleep 0.1; done";
    let model = Model::start(dialect, [vec![bash(stubborn), bash("echo never")]]).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.say(&json!({"text": "Run."})).await;
    let output = stream.until("tool_output_delta").await.pop().expect("an event").json;
    let pid = output["text"].as_str().expect("text").trim().to_owned();
    let process = Path::new("/proc").join(&pid);
    assert!(process.exists());
    let (canceled, events) = cancel(&server, &model, &mut stream).await;
    let expected = json!({"pid": pid.parse::<u32>().expect("a pid"), "command": stubborn, "how": "kill"});
    assert_eq!((&canceled["processes_ended"][0], &canceled["processes_left"]), (&expected, &json!([])));
    // Its parent may be about to reap it.
    until("the end of the process", async || (!process.exists()).then_some(())).await;
    assert_eq!(events.iter().filter(|event| event.name == "tool_call_started").count(), 0, "the second never began");
    let results: Vec<Said> = model.asked(1).await.conversation();
    assert_eq!(results.iter().filter(|said| matches!(said, Said::Result(_))).count(), 2, "{results:?}");
}

#[tokio::test]
async fn who_leaves_in_the_middle_cancels_nothing() {
    let (model, server, gate) = talking(Dialect::Anthropic).await;
    let mut stream = server.rest.say(&json!({"text": "Talk."})).await;
    let begun = stream.until("content_delta").await;
    drop(stream);
    // The same through the other doors.
    gate.open();
    let turn = server.rest.ended_turn(begun[0].turn_id()).await;
    assert_eq!(turn["finish_reason"], "end_turn");
    for door in [Door::Grpc, Door::GrpcWeb] {
        let gate = Gate::new();
        model.then(vec![text("I am "), Step::Wait(gate.clone()), text("here.")]);
        let wish = json!({"parts": [{"type": "text", "text": "Talk."}]});
        let mut stream = server.through(door).send_message(wish).await.expect("a turn");
        stream.until("content_delta").await;
        drop(stream);
        let running = server.rest.read("/agent/status").await["turn_id"].clone();
        gate.open();
        let turn = soon("the end", server.rest.ended_turn(&running)).await;
        assert_eq!(turn["finish_reason"], "end_turn");
    }
    check_against_reads(&server).await;
}
