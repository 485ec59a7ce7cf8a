//! Requests that are sent again: a key makes a repeat join what was accepted, through every door and over every restart.

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    support::{
        Dialect, Door, Gate, Model, Server, Setup, Step, Value,
        model::{bash, text},
        names,
    },
    through_every_door,
};

through_every_door! {
    a_repeat_joins_the_turn;
    of_many_at_once_one_starts;
    what_was_refused_has_no_key;
    a_turn_that_the_log_no_longer_holds;
    a_reset_is_done_once;
    a_revert_is_done_once;
    a_reset_that_is_at_work;
}

fn say(words: &str) -> Value {
    json!({"parts": [{"type": "text", "text": words}]})
}

const DOORS: [Door; 3] = [Door::Rest, Door::Grpc, Door::GrpcWeb];

async fn a_repeat_joins_the_turn(door: Door) {
    let gate = Gate::new();
    let model = Model::start(Dialect::Anthropic, [vec![text("One "), Step::Wait(gate.clone()), text("two.")]]).await;
    let mut server = Setup::with(&model).start();
    let client = server.through(door);
    let (mut first, replayed) = client.send_keyed(&say("Count."), "a key!", None).await.expect("a turn");
    assert!(!replayed);
    let mut seen = first.until("content_delta").await;

    // While it runs, from its first event, from a place, and without a stream.
    let (mut again, replayed) = client.send_keyed(&say("Count."), "a key!", None).await.expect("the same turn");
    assert!(replayed);
    let place = &seen[1].id;
    let (mut later, replayed) = client.send_keyed(&say("Count."), "a key!", Some(place)).await.expect("the same turn");
    assert!(replayed);
    let (turn, replayed) = client.begin_keyed(&say("Count."), "a key!").await.expect("the same turn");
    assert_eq!((replayed, &turn["id"]), (true, seen[0].turn_id()));
    let other = client.send_keyed(&say("Count!"), "a key!", None).await.err().expect("a refusal");
    assert_eq!((other.code.as_str(), other.retryable), ("idempotency_key_reused", false));
    let other = client.reset_keyed(&json!({}), "a key!").await.expect_err("a refusal");
    assert_eq!(other.code, "idempotency_key_reused", "one name space for all operations");
    gate.open();
    seen.extend(first.rest().await);
    assert_eq!(names(&seen).last(), Some(&"turn_completed"));
    assert_eq!(again.rest().await, seen);
    assert_eq!(later.rest().await, seen[2..]);

    // When it has ended, and after a crash, through every door.
    for _ in 0..2 {
        for other in DOORS {
            let client = server.through(other);
            let (mut again, replayed) = client.send_keyed(&say("Count."), "a key!", None).await.expect("the turn");
            assert!(replayed);
            let again = again.rest().await;
            assert_eq!(again.len(), seen.len(), "{:?}", names(&again));
            assert!(again.iter().zip(&seen).all(|(again, seen)| again.id == seen.id));
            let last = &seen.last().expect("an event").id;
            let (mut none, _) = client.send_keyed(&say("Count."), "a key!", Some(last)).await.expect("the turn");
            assert_eq!(none.rest().await, []);
        }
        server.crash_and_restart();
    }
    // The short form is the same request.
    let request = server.rest.request("POST", "/messages").header("idempotency-key", "a key!");
    let request = request.header("accept", "application/json").json(&json!({"text": "Count."}));
    let answer = crate::support::Answer::of(request).await;
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
    let answer = answer.ok();
    assert_eq!((&answer["turn"]["id"], &answer["message"]["parts"][0]["text"]), (&turn["id"], &json!("One two.")));
    assert_eq!(model.journal().len(), 1, "nothing was started again");
}

async fn of_many_at_once_one_starts(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![text("Yes.")], vec![text("Yes.")]]).await;
    let server = Setup::with(&model).start();
    for key in ["first", "second"] {
        let clients: Vec<_> =
            (0..12).map(|index| server.through(DOORS[index % 3])).chain([server.through(door)]).collect();
        let wish = say("Are you there?");
        let all = join_all(clients.iter().map(|client| client.send_keyed(&wish, key, None))).await;
        let (mut new, mut turns) = (0, Vec::new());
        for answer in all {
            let (mut stream, replayed) = answer.expect("the turn");
            new += usize::from(!replayed);
            let events = stream.rest().await;
            assert_eq!(names(&events).last(), Some(&"turn_completed"));
            turns.push(events[0].turn_id().clone());
        }
        turns.dedup();
        assert_eq!((new, turns.len()), (1, 1));
    }
    assert_eq!(server.rest.read("/turns").await["pagination"]["total"], 2);
}

async fn what_was_refused_has_no_key(door: Door) {
    let gate = Gate::new();
    let model =
        Model::start(Dialect::Anthropic, [vec![Step::Wait(gate.clone()), text("One.")], vec![text("Two.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let (mut first, _) = client.send_keyed(&say("One?"), "one", None).await.expect("a turn");
    first.until("turn_started").await;
    let busy = client.send_keyed(&say("Two?"), "two", None).await.err().expect("a refusal");
    assert_eq!(busy.code, "agent_busy");
    gate.open();
    first.rest().await;
    let (mut second, replayed) = client.send_keyed(&say("Another."), "two", None).await.expect("a turn");
    assert!(!replayed, "the key was not used up");
    second.rest().await;

    // Keys of the wrong form, and a place without a key.
    let name = if door == Door::Rest { "Idempotency-Key" } else { "idempotency_key" };
    for key in ["ä", &"k".repeat(256)] {
        for refused in [
            client.send_keyed(&say("No."), key, None).await.err(),
            client.reset_keyed(&json!({}), key).await.err(),
            client.revert_keyed(&json!({"version": "v1"}), key).await.err(),
        ] {
            let refused = refused.expect("a refusal");
            assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec![name.to_owned()]), "{key}");
        }
    }
    let longest = "k".repeat(255);
    let (_, replayed) = client.reset_keyed(&json!({}), &longest).await.expect("a session");
    assert!(!replayed);
    let mut wish = say("No.");
    wish["after"] = json!("0");
    if door == Door::Rest {
        let answer = server.rest.post("/messages?after=e1-1", &say("No.")).await;
        assert_eq!(answer.problem(400, "invalid_argument")["errors"][0]["field"], "after");
    }
    assert_eq!(model.journal().len(), 2);
}

/// The log of this server no longer holds the turn.
async fn a_turn_that_the_log_no_longer_holds(door: Door) {
    let model = Model::start(Dialect::Anthropic, [vec![text("One.")]]).await;
    let mut server = Setup::with(&model).start();
    let client = server.through(door);
    let (mut first, _) = client.send_keyed(&say("One?"), "one", None).await.expect("a turn");
    let seen = first.rest().await;
    client.reset_session(json!({})).await.expect("a session");
    for _ in 0..2 {
        let client = server.through(door);
        let head = client.get_session().await.expect("the session").cursor;
        let (mut again, replayed) = client.send_keyed(&say("One?"), "one", None).await.expect("the turn");
        assert!(replayed);
        let again = again.rest().await;
        assert_eq!(names(&again), ["resync_required", "turn_completed"]);
        assert_eq!(again[0].json["reason"], "expired");
        assert_eq!(again[1].json, seen.last().expect("an event").json, "the end as it was");
        if door == Door::Rest {
            assert_eq!(again.iter().map(|event| Some(&event.id)).collect::<Vec<_>>(), [head.as_ref(), head.as_ref()]);
            let request = server.rest.request("POST", "/messages").header("idempotency-key", "one").json(&say("One?"));
            let answer = crate::support::Answer::of(request.header("accept", "application/json")).await.ok();
            assert_eq!(&answer["turn"]["id"], seen[0].turn_id());
            assert_eq!(answer.get("message"), None);
        }
        server.crash_and_restart();
    }
    assert_eq!(model.journal().len(), 1);

    // After a day the key is free.
    server.kill();
    let log = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("the log");
    log.execute("UPDATE keys SET at = at - 24 * 60 * 60 * 1000", []).expect("an old key");
    drop(log);
    server.crash_and_restart();
    model.then(vec![text("Two.")]);
    let client = server.through(door);
    let (mut new, replayed) = client.send_keyed(&say("Two?"), "one", None).await.expect("a turn");
    assert!(!replayed);
    assert_ne!(new.rest().await[0].turn_id(), seen[0].turn_id());
}

async fn a_reset_is_done_once(door: Door) {
    let mut server = Setup::new().start();
    let client = server.through(door);
    let (session, replayed) = client.reset_keyed(&json!({"title": "New"}), "k").await.expect("a session");
    assert!(!replayed);
    let log = server.rest.log().await;
    server.crash_and_restart();
    let client = server.through(door);
    server.rest.send("PATCH", "/session", &json!({"title": "Renamed"})).await.ok();
    let (again, replayed) = client.reset_keyed(&json!({"title": "New"}), "k").await.expect("the answer");
    assert_eq!((&again, replayed), (&session, true), "the answer as it was");
    assert_eq!(
        client.reset_keyed(&json!({"title": "Else"}), "k").await.expect_err("a refusal").code,
        "idempotency_key_reused"
    );
    assert_eq!(server.rest.log().await.len(), log.len() + 1, "nothing was reset");
    let (other, replayed) = client.reset_keyed(&json!({"title": "New"}), "l").await.expect("a session");
    assert!(!replayed && other["id"] != session["id"]);
    let (again, replayed) = client.reset_keyed(&json!({"title": "New"}), "k").await.expect("the answer");
    assert_eq!((&again, replayed), (&session, true), "keys are kept over a reset");
}

async fn a_revert_is_done_once(door: Door) {
    let mut server = Setup::new().start();
    let client = server.through(door);
    let version = server.rest.read("/files/changes").await["current_version"].clone();
    let file = server.workspace().join("README.md");
    std::fs::write(&file, "other\n").expect("a file");
    let wish = json!({ "version": version });
    let mut dry = wish.clone();
    dry["dry_run"] = json!(true);
    let (would, replayed) = client.revert_keyed(&dry, "dry").await.expect("a plan");
    assert!(!replayed);
    let (done, replayed) = client.revert_keyed(&wish, "k").await.expect("a revert");
    assert!(!replayed);
    assert_eq!(done["changes"][0]["path"], "README.md");
    std::fs::write(&file, "mine\n").expect("a file");
    for _ in 0..2 {
        let client = server.through(door);
        assert_eq!(client.revert_keyed(&wish, "k").await.expect("the answer"), (done.clone(), true));
        assert_eq!(client.revert_keyed(&dry, "dry").await.expect("the answer"), (would.clone(), true));
        assert_eq!(client.revert_keyed(&dry, "k").await.expect_err("a refusal").code, "idempotency_key_reused");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), "mine\n", "it is done once");
        server.crash_and_restart();
    }
}

async fn a_reset_that_is_at_work(door: Door) {
    // It takes a second to end.
    let model =
        Model::start(Dialect::Anthropic, [vec![bash("trap '' TERM; echo on; while :; do sleep 1; done")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let mut turn = client.send_message(say("Wait.")).await.expect("a turn");
    turn.until("tool_output_delta").await;
    let wish = json!({"title": "New"});
    let both = join_all([client.reset_keyed(&wish, "k"), client.reset_keyed(&wish, "k")]).await;
    let (done, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    assert!(matches!(done.as_slice(), [Ok((_, false))]), "{done:?}");
    let refused = refused.into_iter().next().expect("two answers").expect_err("a refusal");
    assert_eq!((refused.code.as_str(), refused.retryable), ("in_progress", true));
    assert!(client.reset_keyed(&wish, "k").await.expect("the answer").1);
}

/// A server whose client wants the turn to end with its views, and the events of all.
async fn watched(door: Door) -> (Model, Server, crate::support::Following) {
    let model = Model::start(Dialect::Anthropic, [vec![text("I am "), Step::Stall]]).await;
    let server = Setup::with(&model).start();
    let all = server.through(door).stream_events(json!({})).await.expect("a stream");
    (model, server, all)
}

mod leaving {
    use std::time::{Duration, Instant};

    use super::{DOORS, join_all, json, say, watched};
    use crate::support::Door;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_turn_ends_with_its_last_view() {
        join_all(DOORS.map(async |door| {
            let (_model, server, mut all) = watched(door).await;
            let client = server.through(door);
            let mut wish = say("Who are you?");
            wish["cancel_on_disconnect"] = json!(true);
            let (mut first, _) = client.send_keyed(&wish, "k", None).await.expect("a turn");
            let seen = first.until("content_delta").await;
            let id = seen[0].turn_id().clone();
            drop(first);
            let began = Instant::now();
            tokio::time::sleep(GRACE / 2).await;
            // Somebody comes in time, by the key or by the turn's id.
            let second = match door {
                Door::Rest | Door::Grpc => client.send_keyed(&wish, "k", None).await.expect("the turn").0,
                Door::GrpcWeb => client.stream_events(json!({"after": "0", "turn_id": id})).await.expect("a stream"),
            };
            tokio::time::sleep(GRACE * 3 / 4).await;
            assert!(began.elapsed() > GRACE);
            let turn = client.get_turn(&id, 0).await.expect("the turn").body;
            assert_eq!(turn["status"], "running", "it is watched");
            drop(second);
            let left = Instant::now();
            let end = all.until("turn_completed").await;
            assert!(left.elapsed() >= GRACE, "it ended after {:?}", left.elapsed());
            assert_eq!(end.last().expect("an event").json["finish_reason"], "canceled");
        }))
        .await;
    }

    #[tokio::test]
    async fn a_turn_that_nobody_came_to_watch_ends() {
        join_all(DOORS.map(async |door| {
            let (_model, server, mut all) = watched(door).await;
            let mut wish = say("Who are you?");
            wish["cancel_on_disconnect"] = json!(true);
            let began = Instant::now();
            server.through(door).begin_keyed(&wish, "k").await.expect("a turn");
            let end = all.until("turn_completed").await;
            assert!(began.elapsed() >= GRACE);
            assert_eq!(end.last().expect("an event").json["finish_reason"], "canceled");
        }))
        .await;
    }

    #[tokio::test]
    async fn a_wait_for_json_is_a_view() {
        let (model, server, mut all) = watched(Door::Rest).await;
        let mut wish = say("Who are you?");
        wish["cancel_on_disconnect"] = json!(true);
        let request = server.rest.request("POST", "/messages").header("accept", "application/json").json(&wish);
        let waiting = tokio::spawn(request.send());
        model.asked(0).await;
        let began = Instant::now();
        tokio::time::sleep(GRACE * 5 / 4).await;
        let turns = server.rest.read("/turns").await;
        assert_eq!(turns["turns"][0]["status"], "running", "{turns}");
        assert!(began.elapsed() > GRACE);
        waiting.abort();
        let left = Instant::now();
        let end = all.until("turn_completed").await;
        assert!(left.elapsed() >= GRACE - Duration::from_millis(100));
        assert_eq!(end.last().expect("an event").json["finish_reason"], "canceled");
    }
}
