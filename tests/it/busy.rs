//! Messages for an agent that is busy: refused, queued, or given to the running turn.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Answer, Dialect, Door, Gate, Model, Server, Setup, Step, Value,
        model::{bash, call, text},
        names,
        wire::Said,
    },
    through_every_door,
};

through_every_door! {
    queued_turns_begin_in_order;
    a_queued_turn_is_cancelled_by_its_id;
    a_turn_is_steered;
    what_cannot_be_steered;
}

in_both_dialects! {
    the_queue_goes_on_after_a_crash;
    what_a_turn_did_not_take_is_told_to_the_next;
    steered_at_the_very_end;
}

fn say(words: &str) -> Value {
    json!({"parts": [{"type": "text", "text": words}]})
}

fn queue(words: &str) -> Value {
    json!({"parts": [{"type": "text", "text": words}], "when_busy": "queue"})
}

fn steer(words: &str) -> Value {
    json!({"parts": [{"type": "text", "text": words}], "when_busy": "steer"})
}

/// A server whose model waits at the gate in its first answer, which calls a tool if `acts`.
async fn waiting(dialect: Dialect, acts: bool) -> (Model, Server, Gate) {
    let gate = Gate::new();
    let mut answer = vec![text("One "), Step::Wait(gate.clone()), text("is done.")];
    answer.extend(acts.then(|| call("view", &json!({"path": "README.md"}))));
    let model = Model::start(dialect, [answer]).await;
    let server = Setup::with(&model).env("OPENCODE_PERMISSION_MODE", "auto").start();
    (model, server, gate)
}

async fn queued_turns_begin_in_order(door: Door) {
    let (model, server, gate) = waiting(Dialect::Anthropic, false).await;
    let client = server.through(door);
    let mut first = client.send_message(say("First.")).await.expect("a turn");
    first.until("content_delta").await;
    assert_eq!(client.send_message(say("No.")).await.err().expect("a refusal").code, "agent_busy");
    let mut reject = say("No.");
    reject["when_busy"] = json!("reject");
    assert_eq!(client.send_message(reject).await.err().expect("a refusal").code, "agent_busy");

    let second = client.begin_turn(queue("Second.")).await.expect("a turn").body;
    assert_eq!((&second["status"], second.get("started_at")), (&json!("queued"), None), "{second}");
    let mut third = client.send_message(queue("Third.")).await.expect("a turn");
    let list = client.list_turns(json!({})).await.expect("the turns").body;
    let states: Vec<_> = list["turns"].as_array().expect("a list").iter().map(|turn| &turn["status"]).collect();
    assert_eq!(states, ["queued", "queued", "running"], "newest first");
    assert_eq!(list["turns"][1], second);
    let said = client.list_messages(json!({"role": "user"})).await.expect("messages").body;
    assert_eq!(said["messages"].as_array().map(Vec::len), Some(1), "its message comes when it starts");
    // What must not meet a turn must not meet one that waits either.
    assert_eq!(client.clear_messages().await.expect_err("a refusal").code, "agent_busy");

    model.then(vec![text("Two.")]);
    model.then(vec![text("Three.")]);
    gate.open();
    let events = third.rest().await;
    assert_eq!(names(&events)[..2], ["message_created", "turn_started"]);
    assert_eq!(events.last().expect("an event").json["finish_reason"], "end_turn");
    let ended = client.get_turn(&second["id"], 10).await.expect("the turn").body;
    assert_eq!((&ended["status"], &ended["user_message_id"]), (&json!("completed"), &second["user_message_id"]));
    assert_eq!(ended["created_at"], second["created_at"]);
    let words: Vec<String> =
        server.rest.messages().await.iter().map(|said| said["parts"][0]["text"].to_string()).collect();
    assert_eq!(words.join(" "), r#""First." "One is done." "Second." "Two." "Third." "Three.""#);
    check_against_reads(&server).await;

    // Where nothing runs it starts at once.
    model.then(vec![text("Four.")]);
    let mut fourth = client.send_message(queue("Fourth.")).await.expect("a turn");
    assert_eq!(names(&fourth.rest().await).last(), Some(&"turn_completed"));
}

async fn a_queued_turn_is_cancelled_by_its_id(door: Door) {
    let (model, server, gate) = waiting(Dialect::Anthropic, false).await;
    let client = server.through(door);
    let mut first = client.send_message(say("First.")).await.expect("a turn");
    first.until("content_delta").await;
    let mut second = client.send_message(queue("Second.")).await.expect("a turn");
    let list = client.list_turns(json!({})).await.expect("the turns").body;
    let id = &list["turns"][0]["id"];
    let third = client.begin_turn(queue("Third.")).await.expect("a turn").body;
    let canceled = client.cancel_agent(json!({ "turn_id": id })).await.expect("an answer").body;
    assert_eq!((&canceled["canceled"], &canceled["turn_id"]), (&json!(true), id));
    let events = second.rest().await;
    let kinds: Vec<&str> = events.iter().map(|event| event.json["type"].as_str().expect("a type")).collect();
    let failed = if door == Door::Rest { "turn_failed" } else { "error" };
    assert_eq!(kinds, [failed, "turn_completed"]);
    assert_eq!(events[1].json["finish_reason"], "canceled");
    let turn = client.get_turn(id, 0).await.expect("the turn").body;
    assert_eq!((&turn["status"], &turn["error"]["code"]), (&json!("completed"), &json!("canceled")));
    let status = client.get_agent_status().await.expect("the status").body;
    assert_eq!(status["status"], "processing", "the running turn is not touched");

    // There is room for 16, and no more.
    for _ in 1..16 {
        client.begin_turn(queue("More.")).await.expect("a turn");
    }
    let full = client.begin_turn(queue("Too much.")).await.expect_err("a refusal");
    assert_eq!((full.code.as_str(), full.detail.contains("16")), ("agent_busy", true));
    // A reset takes them all, and who follows is told of it and of each of them.
    let mut follower = server.rest.stream("/events").await;
    let mut own = server.rest.stream(&format!("/events?turn_id={}", third["id"].as_str().expect("an id"))).await;
    client.reset_session(json!({})).await.expect("a session");
    let events = follower.until("session_reset").await;
    assert!(events.iter().all(|event| event.name != "resync_required"), "{events:?}");
    let ended = own.rest().await;
    assert_eq!(names(&ended), ["turn_failed", "turn_completed"]);
    let turn = client.get_turn(&third["id"], 0).await.expect("the turn").body;
    assert_eq!(turn["finish_reason"], "canceled");
    gate.open();
    model.then(vec![text("Yes.")]);
    assert_eq!(server.rest.ask("Are you free?").await["turn"]["finish_reason"], "end_turn");
    assert_eq!(server.rest.messages().await.len(), 2);
}

async fn a_turn_is_steered(door: Door) {
    let (model, server, gate) = waiting(Dialect::Anthropic, true).await;
    let client = server.through(door);
    let mut first = client.send_message(say("First.")).await.expect("a turn");
    let mut seen = first.until("content_delta").await;
    let id = seen[0].turn_id().clone();
    let mut wish = steer("Rather this.");
    wish["turn_id"] = id.clone();
    let (mut view, replayed) = client.send_keyed(&wish, "k", None).await.expect("the turn");
    assert!(!replayed);
    let (turn, replayed) = client.begin_keyed(&wish, "k").await.expect("the turn");
    assert_eq!((&turn["id"], replayed), (&id, true), "a repeat joins the turn and says nothing again");
    assert_eq!(server.rest.messages().await.len(), 2, "it comes between two calls");
    model.then(vec![text("As you say.")]);
    gate.open();
    seen.extend(first.rest().await);
    let all =
        server.rest.stream(&format!("/events?after=0&turn_id={}", id.as_str().expect("an id"))).await.rest().await;
    let place = |found: &dyn Fn(&Value) -> bool| all.iter().position(|event| found(&event.json)).expect("an event");
    let steered = place(&|json| json["message"]["parts"][0]["text"] == "Rather this.");
    assert!(steered > place(&|json| json["type"] == "tool_call_completed"));
    assert!(steered < place(&|json| json["text"].as_str().is_some_and(|text| text.starts_with("As "))));
    assert_eq!(view.rest().await.last().expect("an event").id, seen.last().expect("an event").id);
    let told = model.asked(1).await.conversation();
    assert_eq!(told.last(), Some(&Said::User("Rather this.".into())), "{told:?}");
    assert_eq!(server.rest.read("/turns").await["pagination"]["total"], 1);
    check_against_reads(&server).await;
}

async fn what_cannot_be_steered(door: Door) {
    let (model, server, gate) = waiting(Dialect::Anthropic, false).await;
    let client = server.through(door);
    let mut gone = steer("Rather this.");
    gone["turn_id"] = json!("turn_of_before");
    assert_eq!(client.begin_turn(gone.clone()).await.expect_err("a refusal").code, "stale_turn");
    let mut first = client.send_message(say("First.")).await.expect("a turn");
    first.until("content_delta").await;
    assert_eq!(client.begin_turn(gone).await.expect_err("a refusal").code, "stale_turn");
    let mut wish = queue("Later.");
    wish["turn_id"] = json!("turn_1");
    assert_eq!(client.begin_turn(wish).await.expect_err("a refusal").fields, ["turn_id"]);
    for (field, value) in [("cancel_on_disconnect", json!(true)), ("model", json!("mock/demo"))] {
        let mut wish = steer("Rather this.");
        wish[field] = value;
        assert_eq!(client.begin_turn(wish).await.expect_err("a refusal").fields, [field]);
    }
    for _ in 0..16 {
        client.begin_turn(steer("And this.")).await.expect("the turn");
    }
    assert_eq!(client.begin_turn(steer("Too much.")).await.expect_err("a refusal").code, "agent_busy");
    gate.open();
    model.then(vec![text("Yes.")]);
    first.rest().await;
    // Where nothing runs it begins a turn.
    model.then(vec![text("Begun.")]);
    let mut turn = client.send_message(steer("Begin.")).await.expect("a turn");
    assert_eq!(names(&turn.rest().await)[..2], ["message_created", "turn_started"]);
}

async fn steered_at_the_very_end(dialect: Dialect) {
    let (model, server, gate) = waiting(dialect, false).await;
    let mut first = server.rest.say(&say("First.")).await;
    first.until("content_delta").await;
    server.through(Door::Grpc).begin_turn(steer("One more thing.")).await.expect("the turn");
    model.then(vec![text("Done too.")]);
    gate.open();
    let events = first.rest().await;
    assert_eq!(events.last().expect("an event").json["finish_reason"], "end_turn");
    assert_eq!(model.asked(1).await.conversation().last(), Some(&Said::User("One more thing.".into())));
    assert_eq!(server.rest.messages().await.len(), 4, "one more call answers it");
    check_against_reads(&server).await;
}

async fn the_queue_goes_on_after_a_crash(dialect: Dialect) {
    let (model, mut server, _gate) = waiting(dialect, false).await;
    let mut first = server.rest.say(&say("First.")).await;
    first.until("content_delta").await;
    let client = server.through(Door::Grpc);
    let (second, _) = client.begin_keyed(&queue("Second."), "k").await.expect("a turn");
    let third = client.begin_turn(queue("Third.")).await.expect("a turn").body;
    server.kill();
    model.then(vec![text("Two.")]);
    model.then(vec![text("Three.")]);
    // A start that cannot listen leaves them as they are.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let (code, said) = server.setup().env("HTTP_PORT", port).fail_to_start();
    assert!(code == Some(1) && said.contains("set HTTP_PORT"), "{said}");
    server.crash_and_restart();
    for (turn, answer) in [(&second, "Two."), (&third, "Three.")] {
        let turn = server.rest.ended_turn(&turn["id"]).await;
        assert_eq!(turn["finish_reason"], "end_turn", "{turn}");
        let path = format!("/messages/{}", turn["message_id"].as_str().expect("an id"));
        assert_eq!(server.rest.read(&path).await["parts"][0]["text"], answer);
    }
    let (again, replayed) = server.through(Door::Rest).begin_keyed(&queue("Second."), "k").await.expect("the turn");
    assert_eq!((&again["id"], replayed), (&second["id"], true));
    check_against_reads(&server).await;
}

async fn what_a_turn_did_not_take_is_told_to_the_next(dialect: Dialect) {
    // Cancelled in one, killed in the other; both in the middle of a tool.
    for kills in [false, true] {
        let model = Model::start(dialect, [vec![text("I run."), bash("echo on; sleep 30")]]).await;
        let mut server = Setup::with(&model).env("OPENCODE_PERMISSION_MODE", "auto").start();
        let mut first = server.rest.say(&say("First.")).await;
        first.until("tool_output_delta").await;
        server.through(Door::Grpc).begin_turn(steer("Rather this.")).await.expect("the turn");
        if kills {
            server.crash_and_restart();
        } else {
            server.rest.post("/agent/cancel", &json!({})).await.ok();
        }
        let said = server.rest.messages().await;
        assert_eq!(said.last().expect("a message")["parts"][0]["text"], "Rather this.");
        check_against_reads(&server).await;
        model.then(vec![text("Well.")]);
        assert_eq!(server.rest.ask("Go on.").await["turn"]["finish_reason"], "end_turn");
        let told = model.asked(1).await.conversation();
        let last: Vec<_> = told.iter().rev().take(2).rev().cloned().collect();
        assert_eq!(last, [Said::User("Rather this.".into()), Said::User("Go on.".into())], "{told:?}");
    }
}

/// Where no model is configured, a turn that named one can be steered all the same, and one that is gone is stale.
#[tokio::test]
async fn a_steering_message_is_for_the_model_of_its_turn() {
    let server = Setup::new().start();
    let late = json!({"text": "Rather this.", "when_busy": "steer", "turn_id": "turn_of_yesterday"});
    server.rest.send("POST", "/messages", &late).await.problem(409, "stale_turn");
    let mut stream = server.rest.say(&json!({"text": "Begin.", "model": "mock/demo"})).await;
    stream.until("content_delta").await;
    let request = server.rest.request("POST", "/messages").header("prefer", "respond-async");
    let answer = Answer::of(request.json(&steer("Rather this."))).await;
    answer.json_with(202);
    stream.rest().await;
    let messages = server.rest.messages().await;
    let steered = messages.iter().find(|message| message["parts"][0]["text"] == "Rather this.").expect("it is there");
    assert_eq!(steered["model"], "mock/demo");
}
