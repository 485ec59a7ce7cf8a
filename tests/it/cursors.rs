//! Cursors: where a stream or a page goes on, and what is said when it cannot.

use serde_json::json;

use crate::support::{
    Answer, Dialect, Event, Gate, Model, Rest, Server, Setup, Sse, Step, Value,
    model::{bash, text},
    names,
};

/// A server with one turn in its log.
async fn with_a_turn() -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, [vec![text("Yes."), bash("true")], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    server.rest.ask("Is it so?").await;
    (model, server)
}

async fn page(rest: &Rest, query: &str) -> Value {
    Answer::of(rest.request("GET", &format!("/events{query}")).header("accept", "application/json")).await.ok()
}

/// All events by the stream, which has the cursors.
async fn everything(rest: &Rest) -> Vec<Event> {
    let last = rest.log().await.last().expect("an event").seq();
    rest.stream("/events?after=0").await.through(last).await
}

/// The stream says first of all why it could not go on, with the head as its id.
async fn resync(stream: &mut Sse, reason: &str, head: &str) {
    assert!(stream.frame().await.expect("a frame").retry.is_some());
    let frame = stream.frame().await.expect("a frame");
    assert_eq!((frame.event.as_deref(), frame.id.as_deref()), (Some("resync_required"), Some(head)));
    let data: Value = serde_json::from_str(&frame.data.expect("data")).expect("JSON");
    assert_eq!(data, json!({"type": "resync_required", "reason": reason}));
}

async fn rename(rest: &Rest, title: &str) {
    rest.send("PATCH", "/session", &json!({ "title": title })).await.ok();
}

#[tokio::test]
async fn a_good_cursor_gives_exactly_the_rest() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let all = everything(rest).await;
    let last = all.last().expect("an event");
    for (index, event) in all.iter().enumerate() {
        let found = page(rest, &format!("?limit=1000&after={}", event.id)).await;
        let expected: Vec<&Value> = all[index + 1..].iter().map(|event| &event.json).collect();
        assert_eq!(found["events"].as_array().expect("a list").iter().collect::<Vec<_>>(), expected);
        assert_eq!((&found["next"], &found["has_more"]), (&json!(last.id), &json!(false)));
        if index % 7 == 0 && index + 1 < all.len() {
            let mut by_query = rest.stream(&format!("/events?after={}", event.id)).await;
            assert_eq!(by_query.through(last.seq()).await, all[index + 1..]);
            // A browser repeats its URL when it reconnects, so that the header wins.
            let mut by_header = rest.resume(&format!("/events?after={}", all[0].id), &event.id).await;
            assert_eq!(by_header.through(last.seq()).await, all[index + 1..]);
        }
    }
}

#[tokio::test]
async fn every_stream_begins_with_the_place_it_starts_from() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let all = everything(rest).await;
    let head = &all.last().expect("an event").id;

    let mut live = rest.stream("/events").await;
    let first = live.frame().await.expect("a frame");
    assert_eq!((first.retry.as_deref(), first.id, first.data), (Some("3000"), None, None));
    let second = live.frame().await.expect("a frame");
    assert_eq!((second.id.as_ref(), second.event, second.data, second.retry), (Some(head), None, None, None));
    rename(rest, "Another").await;
    assert_eq!(live.next().await.name, "session_updated", "without a cursor it is live from now");

    let mut resumed = rest.resume("/messages/stream", &all[2].id).await;
    assert_eq!(resumed.frame().await.expect("a frame").retry.as_deref(), Some("3000"));
    assert_eq!(resumed.frame().await.expect("a frame").id.as_ref(), Some(&all[2].id));

    // A POST is not repeated by reconnecting.
    let mut posted = rest.say(&json!({"text": "No.", "model": "mock/demo"})).await;
    let first = posted.frame().await.expect("a frame");
    assert_eq!((first.retry, first.event, first.data), (None, None, None));
    assert!(first.id.is_some());
    let events = posted.rest().await;
    assert_eq!(names(&events)[..2], ["message_created", "turn_started"]);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_read_is_refused_or_answered_in_the_stream() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let head = everything(rest).await.last().expect("an event").id.clone();
    for bad in ["nonsense", "-1", "e-1", "e1", "exyz-3", "e1-", "e1-99999999999999999999999", "e01-1", "e1-+1", "00"] {
        for path in ["/events", "/messages/stream"] {
            let problem = rest.get(&format!("{path}?after={}", bad.replace('+', "%2B"))).await;
            let problem = problem.problem(400, "invalid_argument");
            assert_eq!(problem["errors"][0]["field"], "after", "{bad}");
            let mut stream = rest.resume(path, bad).await;
            resync(&mut stream, "other_log", &head).await;
        }
    }
    let mut stream = rest.resume("/events", "nonsense").await;
    resync(&mut stream, "other_log", &head).await;
    rename(rest, "On it goes").await;
    assert_eq!(stream.next().await.name, "session_updated", "the stream goes on from the head");
}

#[tokio::test]
async fn a_cursor_that_cannot_be_followed_asks_for_a_resync() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let head = everything(rest).await.last().expect("an event").id.clone();
    let (epoch, seq) = head.rsplit_once('-').expect("a cursor");
    let seq: u64 = seq.parse().expect("a number");
    let beyond = format!("{epoch}-{}", seq + 1);
    for (cursor, reason) in
        [("e123456-3", "other_log"), (&*beyond, "lost"), (&*format!("{epoch}-{}", u64::MAX), "lost")]
    {
        resync(&mut rest.stream(&format!("/events?after={cursor}")).await, reason, &head).await;
        resync(&mut rest.resume("/events", cursor).await, reason, &head).await;
        resync(&mut rest.resume("/messages/stream", cursor).await, reason, &head).await;
        let found = page(rest, &format!("?after={cursor}")).await;
        assert_eq!(found, json!({"events": [], "next": head, "has_more": false, "resync": {"reason": reason}}));
    }
}

#[tokio::test]
async fn clear_and_reset_move_the_floor_to_their_event() {
    for (method, path, name) in
        [("DELETE", "/messages", "messages_cleared"), ("POST", "/session/reset", "session_reset")]
    {
        let (_model, server) = with_a_turn().await;
        let rest = &server.rest;
        let before = everything(rest).await;
        let mut following = rest.stream("/events").await;
        let answer = Answer::of(rest.request(method, path)).await;
        assert!([200, 204].contains(&answer.status), "{}", answer.text());
        let head = answer.header("event-cursor").expect("a cursor").to_owned();

        let event = following.next().await;
        assert_eq!((event.name.as_str(), &event.id), (name, &head), "who follows sees just that");
        assert_eq!(event.seq(), before.len() as u64 + 1);
        let from_zero = page(rest, "?after=0").await;
        assert_eq!(page(rest, "?after=").await["events"], from_zero["events"]);
        assert_eq!(from_zero["events"], json!([event.json]));
        // Who had seen everything before it gets exactly it; whoever was further behind reads anew.
        let last = &before.last().expect("an event").id;
        assert_eq!(page(rest, &format!("?after={last}")).await["events"], json!([event.json]));
        for event in &before[..before.len() - 1] {
            resync(&mut rest.resume("/events", &event.id).await, "expired", &head).await;
        }
        assert_eq!(page(rest, &format!("?after={}", before[0].id)).await["resync"], json!({"reason": "expired"}));
    }
}

#[tokio::test]
async fn types_name_what_is_wanted_or_left_out() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let all = everything(rest).await;
    let chosen = |keep: &dyn Fn(&str) -> bool| -> Vec<Value> {
        all.iter().filter(|event| keep(&event.name)).map(|event| event.json.clone()).collect()
    };
    let listed = async |types: &str| page(rest, &format!("?limit=1000&types={types}")).await;
    let only = listed("turn_started,turn_completed").await;
    assert_eq!(only["events"], json!(chosen(&|name| name.starts_with("turn_"))));
    assert_eq!((&only["next"], &only["has_more"]), (&json!(all.last().expect("an event").id), &json!(false)));
    let without = listed("-content_delta,-tool_input_delta").await;
    assert_eq!(without["events"], json!(chosen(&|name| !["content_delta", "tool_input_delta"].contains(&name))));
    let both = listed("turn_started,turn_completed,-turn_started").await;
    assert_eq!(both["events"], json!(chosen(&|name| name == "turn_completed")));
    let mut stream = rest.stream("/events?after=0&types=turn_completed").await;
    assert_eq!(stream.next().await.name, "turn_completed");

    for bad in ["nonsense", "turn_started,error", "-nonsense", "-"] {
        let problem = rest.get(&format!("/events?types={bad}")).await.problem(400, "invalid_argument");
        assert_eq!(problem["errors"][0]["field"], "types");
    }
}

#[tokio::test]
async fn a_turns_stream_ends_with_its_turn() {
    let (model, server) = with_a_turn().await;
    let rest = &server.rest;
    model.then(vec![text("Again.")]);
    rest.ask("Again?").await;
    let all = everything(rest).await;
    let first = &all.iter().find(|event| event.name == "turn_started").expect("a turn").json["turn_id"];
    let of_first: Vec<Event> = all.iter().filter(|event| event.turn_id() == first).cloned().collect();
    let id = first.as_str().expect("an id");
    let stream = async |after: &str| rest.stream(&format!("/events?turn_id={id}{after}")).await.rest().await;
    assert_eq!(stream("&after=0").await, of_first);
    assert_eq!(stream(&format!("&after={}", of_first[4].id)).await, of_first[5..]);
    // What has ended and lies behind would never come.
    assert_eq!(stream("").await, []);
    assert_eq!(stream(&format!("&after={}", of_first.last().expect("an event").id)).await, []);
    let after_a_resync = stream("&after=e123-1").await;
    assert_eq!(names(&after_a_resync), ["resync_required", "turn_completed"], "its end is told all the same");
    // Pages of it end likewise, whatever lies behind.
    let found = page(rest, &format!("?limit=1000&turn_id={id}")).await;
    assert_eq!(found["events"].as_array().map(Vec::len), Some(of_first.len()));
    assert_eq!(found["has_more"], false);
    let found = page(rest, &format!("?turn_id={id}&after={}", found["next"].as_str().expect("a cursor"))).await;
    assert_eq!((&found["events"], &found["has_more"]), (&json!([]), &json!(false)));
    rest.get("/events?turn_id=nonsense").await.problem(404, "not_found");
    // It ends there whether its end is wanted or not.
    assert_eq!(stream("&after=0&types=-turn_completed").await, of_first[..of_first.len() - 1]);
    let gate = Gate::new();
    model.then(vec![text("Once "), Step::Wait(gate.clone()), text("more.")]);
    let turn = rest.begin("And again?").await;
    let path = format!("/events?types=content_delta&turn_id={}", turn["id"].as_str().expect("an id"));
    let mut live = rest.stream(&path).await;
    gate.open();
    assert!(names(&live.rest().await).iter().all(|name| *name == "content_delta"));
}

#[tokio::test]
async fn pages_say_where_they_go_on() {
    let (_model, server) = with_a_turn().await;
    let rest = &server.rest;
    let all = everything(rest).await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = page(rest, &format!("?limit=3{after}")).await;
        let events = page["events"].as_array().expect("a list");
        found.extend(events.iter().cloned());
        let next = page["next"].as_str().expect("a cursor");
        assert_eq!(next, all[found.len() - 1].id);
        assert_eq!(page["has_more"], found.len() < all.len());
        if page["has_more"] == false {
            break;
        }
        assert_eq!(events.len(), 3);
        after = format!("&after={next}");
    }
    assert_eq!(found, all.iter().map(|event| event.json.clone()).collect::<Vec<_>>());

    let head = &all.last().expect("an event").id;
    assert_eq!(page(rest, &format!("?after={head}")).await, json!({"events": [], "next": head, "has_more": false}));
    // A wait ends with the first event.
    let path = format!("?wait=60&after={head}");
    let (waited, ()) = tokio::join!(page(rest, &path), rename(rest, "Another"));
    assert_eq!(waited["events"][0]["type"], "session_updated");
    assert_eq!(waited["events"].as_array().map(Vec::len), Some(1));

    for (query, field) in
        [("limit=1001", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("wait=61", "wait"), ("wait=-1", "wait")]
    {
        let request = rest.request("GET", &format!("/events?{query}")).header("accept", "application/json");
        let problem = Answer::of(request).await.problem(400, "invalid_argument");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    for name in ["limit", "wait"] {
        let problem = rest.get(&format!("/events?{name}=1")).await.problem(400, "invalid_argument");
        assert_eq!(problem["errors"][0]["field"], name, "a stream has no pages");
    }
}
