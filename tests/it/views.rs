//! The same events through every door, and the two published views of them.

use serde_json::json;

use crate::{
    in_both_dialects,
    support::{
        Dialect, Door, Event, Gate, Model, Server, Setup, Step, Value,
        model::{bash, call, refusal, text},
        names,
        sse::assert_same,
    },
    through_every_door,
};

through_every_door! {
    every_event_is_told_alike;
    places_are_told_alike;
}

in_both_dialects! {
    the_published_view_of_a_turn;
}

/// A log with as many kinds of events as there are.
async fn eventful() -> (Model, Server) {
    let steps = vec![
        Step::Reasoning { text: "Hm.".into(), signature: "c2ln" },
        text("I look."),
        call("ls", &json!({})),
        bash("echo out; exit 1"),
    ];
    let busy = Step::Http { status: 503, headers: vec![("retry-after", "0".into())], body: json!({}) };
    let answers = [steps, vec![busy], vec![text("Done.")], vec![refusal(401, "no such key")]];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let server = Setup::with(&model).start();
    server.rest.ask("Look.").await;
    server.rest.ask("Fail.").await;
    server.rest.send("PUT", "/agent/model", &json!({"model_id": "mock/demo"})).await.ok();
    (model, server)
}

async fn every_event_is_told_alike(door: Door) {
    let (_model, server) = eventful().await;
    let client = server.through(door);
    let last = server.rest.log().await.last().expect("an event").seq();
    let all = server.rest.stream("/events?after=0").await.through(last).await;
    for kind in ["session_created", "model_retry", "model_changed", "turn_failed", "tool_output_delta"] {
        assert!(names(&all).contains(&kind), "no {kind} in the log");
    }
    let mut stream = client.stream_events(json!({"after": "0"})).await.expect("a stream");
    assert_same(&stream.until("model_changed").await, &all);

    let (mut found, mut query) = (Vec::new(), json!({"limit": 7}));
    loop {
        let page = client.list_events(query.clone()).await.expect("a page");
        assert_eq!(page.cursor.as_deref(), page.body["next"].as_str());
        found.extend(page.body["events"].as_array().expect("a list").iter().cloned());
        query["after"] = page.body["next"].clone();
        if page.body["has_more"] == false {
            break;
        }
    }
    assert_eq!(found, all.iter().map(|event| event.json.clone()).collect::<Vec<Value>>());

    let id = all.iter().find(|event| event.name == "turn_started").expect("a turn").turn_id();
    let mut stream = client.stream_events(json!({"after": "0", "turn_id": id})).await.expect("a stream");
    let of_turn: Vec<Event> = all.iter().filter(|event| event.turn_id() == id).cloned().collect();
    assert_eq!(stream.rest().await, of_turn, "it ends with the turn");
    let query = json!({"limit": 1000, "types": "turn_started,-turn_completed"});
    let page = client.list_events(query).await.expect("a page").body;
    assert_eq!(page["events"].as_array().map(Vec::len), Some(2));
    for (query, code, field) in [
        (json!({"after": "nonsense"}), "invalid_argument", Some("after")),
        (json!({"types": "nonsense"}), "invalid_argument", Some("types")),
        (json!({"turn_id": "nonsense"}), "not_found", None),
    ] {
        for refusal in [client.list_events(query.clone()).await.err(), client.stream_events(query.clone()).await.err()]
        {
            let refusal = refusal.expect("a refusal");
            assert_eq!((refusal.code.as_str(), refusal.fields.first().map(String::as_str)), (code, field));
        }
    }
    for (query, field) in
        [(json!({"limit": 1001}), "limit"), (json!({"limit": -1}), "limit"), (json!({"wait": 61}), "wait")]
    {
        assert_eq!(client.list_events(query).await.expect_err("a refusal").fields, [field]);
    }
}

async fn places_are_told_alike(door: Door) {
    let (_model, server) = eventful().await;
    let client = server.through(door);
    let log = server.rest.log().await;
    let last = log.last().expect("an event").seq();
    let all = server.rest.stream("/events?after=0").await.through(last).await;
    let head = &all.last().expect("an event").id;
    for (cursor, reason) in [("e123456-3".to_owned(), "other_log"), (head.replace(&format!("-{last}"), "-999"), "lost")]
    {
        let mut stream = client.stream_events(json!({ "after": cursor })).await.expect("a stream");
        let event = stream.event().await.expect("an event");
        assert_eq!((&event.id, event.json), (head, json!({"type": "resync_required", "reason": reason})));
        let mut stream = client.stream_messages(json!({ "after": cursor })).await.expect("a stream");
        assert_eq!(stream.event().await.expect("an event").json["reason"], reason);
        let page = client.list_events(json!({ "after": cursor })).await.expect("a page").body;
        assert_eq!(page, json!({"events": [], "next": head, "has_more": false, "resync": {"reason": reason}}));
    }
    let mut stream = client.stream_events(json!({"after": all[4].id})).await.expect("a stream");
    assert_same(&stream.until("model_changed").await, &all[5..]);
}

/// What SendMessage makes of an event of the log.
fn published(event: &Event) -> Value {
    let json = &event.json;
    let mut view = match event.name.as_str() {
        "message_created" if json["message"]["role"] == "assistant" => json!({"type": "message_started",
            "message_id": json["message"]["id"], "timestamp": json["message"]["created_at"]}),
        "content_delta" | "tool_call_started" | "tool_call_completed" => json.clone(),
        "message_completed" => {
            let mut view = json.clone();
            view["timestamp"] = json["at"].clone();
            view
        }
        "turn_failed" => {
            let mut view = json.clone();
            view["type"] = "error".into();
            view
        }
        _ => return json.clone(),
    };
    let fields = view.as_object_mut().expect("an object");
    fields.remove("at");
    fields.remove("turn_id");
    fields.remove("token_id");
    view["seq"] = json["seq"].clone();
    view
}

async fn the_published_view_of_a_turn(dialect: Dialect) {
    let gate = Gate::new();
    let steps = vec![text("I "), Step::Wait(gate.clone()), text("look."), bash("echo out"), call("ls", &json!({}))];
    let model = Model::start(dialect, [steps, vec![refusal(400, "too long")]]).await;
    let server = Setup::with(&model).start();
    for door in [Door::Grpc, Door::GrpcWeb] {
        gate.open();
        let wish = json!({"parts": [{"type": "text", "text": "Look."}]});
        let mut stream = server.through(door).send_message(wish).await.expect("a turn");
        let seen = stream.rest().await;
        let id = seen[0].turn_id().as_str().expect("an id");
        let events = server.rest.stream(&format!("/events?after=0&turn_id={id}")).await.rest().await;
        assert_eq!(
            seen.iter().map(|event| event.json.clone()).collect::<Vec<_>>(),
            events.iter().map(published).collect::<Vec<_>>()
        );
        assert!(seen.iter().zip(&events).all(|(seen, event)| seen.id == event.id), "the same cursors");
        assert_eq!(seen.last().expect("an event").json["finish_reason"], "error");
        model.then(vec![text("I look."), bash("echo out")]);
        model.then(vec![refusal(400, "too long")]);
    }
}
