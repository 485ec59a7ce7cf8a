//! Turns: the three answers of sending a message, and turns read afterwards.

use serde_json::json;

use crate::{
    support::{Answer, Dialect, Door, Ending, Gate, Model, Rest, Server, Setup, Step, Value, model::text},
    through_every_door,
};

through_every_door! {
    turns_are_listed_newest_first;
    a_turn_is_waited_for;
    a_message_names_its_model;
}

async fn talking() -> (Model, Server, Gate) {
    let gate = Gate::new();
    let model = Model::start(Dialect::Anthropic, [vec![text("I am "), Step::Wait(gate.clone()), text("here.")]]).await;
    let server = Setup::with(&model).start();
    (model, server, gate)
}

async fn post(rest: &Rest, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = rest.request("POST", "/messages").json(&json!({"text": "Who?"}));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

#[tokio::test]
async fn accepted_at_once_where_that_is_preferred() {
    let (_model, server, gate) = talking().await;
    for accept in ["*/*", "application/json", "text/event-stream"] {
        let answer = post(&server.rest, &[("prefer", "respond-async"), ("accept", accept)]).await;
        assert_eq!(answer.header("preference-applied"), Some("respond-async"));
        let location = answer.header("location").expect("a place").to_owned();
        let body = answer.json_with(202);
        assert_eq!(body.as_object().map(|fields| fields.len()), Some(1), "{body}");
        assert_eq!(location, format!("/turns/{}", body["turn"]["id"].as_str().expect("an id")));
        assert_eq!(body["turn"]["status"], "running");
        gate.open();
        server.rest.ended_turn(&body["turn"]["id"]).await;
        let turn = server.rest.read(&location).await;
        _model.then(vec![text("Again."), Step::Wait(gate.clone())]);
        assert_eq!(turn["finish_reason"], "end_turn");
    }
}

#[tokio::test]
async fn whole_where_json_ranks_above_the_stream() {
    for accept in ["application/json", "application/json, text/event-stream;q=0.5", "application/*"] {
        let (_model, server, gate) = talking().await;
        gate.open();
        let answer = post(&server.rest, &[("accept", accept)]).await;
        let location = answer.header("location").expect("a place").to_owned();
        let body = answer.json_with(200);
        assert_eq!(body["turn"], server.rest.read(&location).await);
        assert_eq!(body["message"], server.rest.messages().await[1]);
        assert_eq!(body["turn"]["message_id"], body["message"]["id"]);
        assert_eq!(body["message"]["parts"][0]["text"], "I am here.");
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_turn_or_its_time() {
    let (model, server, gate) = talking().await;
    let wait = |seconds: &'static str| [("accept", "application/json"), ("prefer", seconds)];
    let answer = post(&server.rest, &wait("wait=0")).await;
    assert_eq!(answer.header("preference-applied"), Some("wait=0"));
    let body = answer.json_with(202);
    assert_eq!((&body["turn"]["status"], body.get("message")), (&json!("running"), None));
    gate.open();
    server.rest.ended_turn(&body["turn"]["id"]).await;
    model.then(vec![text("Soon.")]);
    let answer = post(&server.rest, &wait("wait=100")).await;
    let body = answer.json_with(200);
    assert_eq!((&body["turn"]["status"], &body["message"]["parts"][0]["text"]), (&json!("completed"), &json!("Soon.")));
}

#[tokio::test]
async fn nothing_is_started_for_who_takes_neither() {
    let (model, server, _) = talking().await;
    for accept in ["text/html", "image/*", "text/event-stream;q=0, application/json;q=0"] {
        post(&server.rest, &[("accept", accept)]).await.problem(406, "not_acceptable");
    }
    assert!(server.rest.log().await.iter().all(|event| event.json.get("turn_id").is_none()));
    assert!(model.journal().is_empty());
    for accept in ["*/*", "text/event-stream", "text/*", "application/json;q=0.5, text/event-stream"] {
        let request = server.rest.request("POST", "/messages").json(&json!({"text": "Hi.", "model": "mock/demo"}));
        let mut stream = crate::support::Sse::open(request.header("accept", accept)).await;
        assert_eq!(stream.next().await.name, "message_created");
        server.rest.post("/agent/cancel", &json!({})).await.ok();
    }
}

async fn turns_are_listed_newest_first(door: Door) {
    let model = Model::start(Dialect::OpenAi, vec![vec![text("Yes.")]; 3]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let mut turns = Vec::new();
    for number in 0..3 {
        turns.insert(0, server.rest.ask(&format!("Question {number}?")).await["turn"].clone());
    }
    let whole = client.list_turns(json!({})).await.expect("a list");
    let expected = json!({
        "turns": turns,
        "pagination": {"total": 3, "limit": 50, "offset": 0, "has_more": false},
        "as_of": whole.cursor.clone().expect("a cursor"),
        "as_of_seq": server.rest.log().await.len(),
    });
    assert_eq!(whole.body, expected);
    let page = client.list_turns(json!({"limit": 2})).await.expect("a list").body;
    assert_eq!((&page["turns"], &page["pagination"]["has_more"]), (&json!(turns[..2]), &json!(true)));
    let next = client.list_turns(json!({"cursor": page["pagination"]["next_cursor"]})).await.expect("a list").body;
    assert_eq!(next["turns"], json!(turns[2..]));
    let offset = client.list_turns(json!({"offset": 1, "limit": 1})).await.expect("a list").body;
    assert_eq!(offset["turns"], json!(turns[1..2]));
    for (query, field) in
        [(json!({"limit": 201}), "limit"), (json!({"offset": -1}), "offset"), (json!({"cursor": "x"}), "cursor")]
    {
        assert_eq!(client.list_turns(query).await.expect_err("a refusal").fields, [field]);
    }
    assert_eq!(client.get_turn(&turns[1]["id"], 0).await.expect("a turn").body, turns[1]);
    assert_eq!(client.get_turn(&json!("turn_nonsense"), 0).await.expect_err("a refusal").code, "not_found");
    for wait in [-1, 61] {
        assert_eq!(client.get_turn(&turns[1]["id"], wait).await.expect_err("a refusal").fields, ["wait"]);
    }
}

async fn a_turn_is_waited_for(door: Door) {
    let (_model, server, gate) = talking().await;
    let client = server.through(door);
    let wish = json!({"parts": [{"type": "text", "text": "Who?"}]});
    let turn = client.begin_turn(wish).await.expect("a turn").body;
    let log = server.rest.log().await;
    let mut turn = turn;
    // It is noted as soon as the workspace was looked at, which may be before this answer or after.
    turn.as_object_mut().expect("a turn").remove("version_before");
    let timeline = turn.as_object_mut().expect("a turn").remove("timeline");
    assert!(timeline.is_some_and(|timeline| timeline["wall_ms"].is_u64()), "also while it runs");
    let expected = json!({
        "id": turn["id"],
        "status": "running",
        "model": "anthropic/claude-opus-5-5",
        "user_message_id": log[2].json["message"]["id"],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
            "reasoning_tokens": 0, "cost": 0.0, "cost_usd": "0", "cost_complete": true},
        "created_at": log[3].json["at"],
        "started_at": log[3].json["at"],
        "first_cursor": turn["first_cursor"],
    });
    assert_eq!(turn, expected);
    assert!(turn["first_cursor"].as_str().is_some_and(|cursor| cursor.ends_with("-3")));
    let waiting = client.get_turn(&turn["id"], 60);
    let (ended, ()) = tokio::join!(waiting, async { gate.open() });
    let ended = ended.expect("a turn").body;
    assert_eq!((&ended["status"], &ended["finish_reason"]), (&json!("completed"), &json!("end_turn")));
}

async fn a_message_names_its_model(door: Door) {
    let model = Model::start(Dialect::Anthropic, [vec![text("Short."), Step::Finish(Ending::MaxTokens)]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let say = |model: &str| json!({"parts": [{"type": "text", "text": "Go."}], "model": model});
    let turn = client.begin_turn(say("claude-sonnet-5-5")).await.expect("a turn").body;
    assert_eq!(turn["model"], "anthropic/claude-sonnet-5-5", "a bare id where it is unambiguous");
    let ended = server.rest.ended_turn(&turn["id"]).await;
    assert_eq!((&ended["finish_reason"], &ended["error"]["code"]), (&json!("max_tokens"), &json!("max_tokens")));
    assert_eq!(model.asked(0).await.body["model"], "claude-sonnet-5-5");
    assert_eq!(client.get_agent_status().await.expect("a status").body["model"], model.id(), "for this turn only");

    let refusal = client.begin_turn(say("mock/dmeo")).await.expect_err("a refusal");
    assert_eq!(refusal.code, "invalid_argument");
    assert!(refusal.detail.contains("did you mean \"mock/demo\""), "{}", refusal.detail);
    let refusal = client.begin_turn(say("mistral/mistral-large-4")).await.expect_err("a refusal");
    assert_eq!(refusal.code, "no_model");
    assert!(refusal.detail.contains("MISTRAL_API_KEY"), "{}", refusal.detail);
    let all: Vec<Value> = server.rest.messages().await;
    assert_eq!(all.len(), 2, "nothing was started");
}
