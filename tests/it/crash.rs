//! Bad days of the process itself: killed, stopped, started twice, started wrongly.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Event, Gate, Model, Server, Setup, Step, Value,
        model::{bash, call, text},
        names, soon,
        wire::Said,
    },
};

in_both_dialects! {
    killed_while_the_model_streams;
    killed_while_a_tool_runs;
}

/// Starts a turn, reads it up to the first event that `there` takes, kills the server and starts it again. Answers
/// what the reader had seen, and its stream after it has come back.
async fn crash_at(server: &mut Server, text: &str, there: impl Fn(&Event) -> bool) -> (Vec<Event>, Vec<Event>) {
    let mut stream = server.rest.stream("/events?after=0").await;
    server.rest.begin(text).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| !there(event)) {
        seen.push(stream.next().await);
    }
    server.kill();
    // What was sent before the kill was shown too.
    seen.extend(stream.rest().await);
    let last = stream.last_id.clone().expect("an id");
    *server = server.setup().start();
    let mut resumed = server.rest.resume("/events?after=0", &last).await;
    (seen, resumed.until("turn_completed").await)
}

/// The log begins with what was seen, and goes on with exactly the rest.
async fn joins_without_a_seam(server: &Server, seen: &[Event], rest: &[Event]) {
    let log = server.rest.log().await;
    let bodies: Vec<&Value> = seen.iter().chain(rest).map(|event| &event.json).collect();
    assert_eq!(log.iter().map(|event| &event.json).collect::<Vec<_>>(), bodies, "nothing lost, nothing twice");
    let (before, after) = (&seen.last().expect("an event").id, &rest.last().expect("an event").id);
    assert_ne!(before.split('-').next(), after.split('-').next(), "each start has an epoch of its own");
    check_against_reads(server).await;
}

/// How a turn ends that was cut by a crash or a stop.
fn ended_as_interrupted(rest: &[Event]) {
    let end = &rest[rest.len() - 3..];
    assert_eq!(names(end), ["turn_failed", "agent_status_changed", "turn_completed"]);
    assert_eq!((&end[0].json["code"], &end[0].json["retryable"]), (&json!("interrupted"), &json!(true)));
    assert_eq!(end[1].json["status"], "idle");
    assert_eq!(end[2].json["finish_reason"], "error");
}

/// The same in the turn and in the status.
async fn read_as_interrupted(server: &Server, rest: &[Event]) {
    let completed = rest.last().expect("an event");
    let turn = server.rest.read(&format!("/turns/{}", completed.turn_id().as_str().expect("an id"))).await;
    assert_eq!((&turn["status"], &turn["finish_reason"]), (&json!("completed"), &json!("error")));
    assert_eq!(turn["error"]["code"], "interrupted");
    assert_eq!((&turn["last_cursor"], &turn["message_id"]), (&json!(completed.id), &completed.json["message_id"]));
    let agent = server.rest.read("/agent/status").await;
    assert_eq!((&agent["status"], &agent["last_turn"]), (&json!("idle"), &turn));
}

async fn killed_while_the_model_streams(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("It is all "), Step::Wait(Gate::new()), text("lost.")]]).await;
    let mut server = Setup::with(&model).start();
    let (seen, rest) =
        crash_at(&mut server, "Begin.", |event| event.json["text"].as_str().is_some_and(|text| text.ends_with("all ")))
            .await;
    joins_without_a_seam(&server, &seen, &rest).await;
    ended_as_interrupted(&rest);
    read_as_interrupted(&server, &rest).await;
    let messages = server.rest.messages().await;
    assert_eq!(messages[1]["parts"][0], json!({"type": "text", "text": "It is all "}), "what was shown is there");
    assert_eq!(messages[1]["parts"][1]["reason"], "error");

    // The next message works, and the broken answer is not told to the model.
    model.then(vec![text("Well.")]);
    let sent = server.rest.ask("Again.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let told = model.asked(1).await.conversation();
    assert!(!told.iter().any(|said| matches!(said, Said::Model(_))), "{told:?}");
    check_against_reads(&server).await;
}

async fn killed_while_a_tool_runs(dialect: Dialect) {
    let answer = vec![call("view", &json!({"path": "README.md"})), bash("echo begun; sleep 5"), bash("echo never")];
    let model = Model::start(dialect, [answer]).await;
    let mut server = Setup::with(&model).start();
    let (seen, rest) = crash_at(&mut server, "Run.", |event| event.name == "tool_output_delta").await;
    joins_without_a_seam(&server, &seen, &rest).await;
    ended_as_interrupted(&rest);
    read_as_interrupted(&server, &rest).await;
    let messages = server.rest.messages().await;
    let results = messages[2]["parts"].as_array().expect("parts");
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["is_error"], false, "what a tool has answered stays");
    for (result, words) in results[1..].iter().zip(["begun\nthe server was stopped while this ran", "not run"]) {
        assert_eq!(result["is_error"], true);
        assert!(result["content"].as_str().expect("words").starts_with(words), "{result}");
    }

    // Every call has its result, so that the history is valid input.
    model.then(vec![text("Well.")]);
    let sent = server.rest.ask("Again.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let told = model.asked(1).await.conversation();
    assert_eq!(told.iter().filter(|said| matches!(said, Said::Result(_))).count(), 3);
    check_against_reads(&server).await;
}

#[tokio::test]
async fn a_session_survives_a_restart_and_a_crash() {
    let model = Model::start(Dialect::Anthropic, [vec![text("One.")]]).await;
    let mut server = Setup::with(&model).start();
    server.rest.ask("First.").await;
    server.rest.send("PUT", "/agent/model", &json!({"model_id": "mock/demo"})).await.ok();
    server.rest.send("PATCH", "/session", &json!({"title": "Kept"})).await.ok();
    let paths = ["/session", "/session/stats", "/messages", "/turns", "/agent/status"];
    // The cursor's epoch is that of the start; all else stays as it is.
    let reads = async |server: &Server| {
        let mut found = Vec::new();
        for path in paths {
            let mut body = server.rest.read(path).await;
            body.as_object_mut().expect("an object").remove("as_of");
            found.push(body);
        }
        (found, server.rest.log().await)
    };
    let before = reads(&server).await;
    server.crash_and_restart();
    assert_eq!(reads(&server).await, before);
    server.restart().await;
    assert_eq!(reads(&server).await, before);
    assert_eq!(server.rest.read("/session").await["title"], "Kept");
    assert_eq!(server.rest.read("/agent/status").await["model"], "mock/demo");
}

#[tokio::test]
async fn a_reader_of_an_earlier_start_goes_on_where_it_was() {
    let server = &mut Setup::new().env("OPENCODE_MODEL", "mock/demo").start();
    server.rest.read("/session").await;
    server.rest.send("PATCH", "/session", &json!({"title": "One"})).await.ok();
    let mut first = server.rest.stream("/events?after=0").await;
    let before = first.through(2).await;
    server.crash_and_restart();
    server.rest.send("PATCH", "/session", &json!({"title": "Two"})).await.ok();
    // The cursor of the last event of the old epoch, and the place that this start begins from.
    let resumed = server.rest.resume("/events", &before[1].id).await.next().await;
    assert_eq!((resumed.seq(), resumed.json["session"]["title"].as_str()), (3, Some("Two")));
    let mut all = server.rest.stream("/events?after=0").await;
    all.frame().await.expect("the retry time");
    let place = all.frame().await.expect("a place").id.expect("an id");
    let mut again = server.rest.resume("/events", &place).await;
    assert_eq!(
        again.through(3).await,
        all.through(3).await,
        "a browser that is cut right at the beginning loses nothing"
    );
}

#[tokio::test]
async fn events_that_a_power_cut_took_are_recognised() {
    let mut server = Setup::new().start();
    server.rest.read("/session").await;
    for title in ["One", "Two", "Three"] {
        server.rest.send("PATCH", "/session", &json!({ "title": title })).await.ok();
    }
    let seen = server.rest.stream("/events?after=0").await.through(4).await;
    server.kill();
    // As if the last two had never reached the disk.
    let log = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("the log");
    log.execute("DELETE FROM events WHERE seq > 2", []).expect("two rows");
    drop(log);
    server.crash_and_restart();
    server.rest.send("PATCH", "/session", &json!({"title": "Other"})).await.ok();
    server.rest.send("PATCH", "/session", &json!({"title": "Else"})).await.ok();
    // The same numbers are given again, in another epoch.
    for event in &seen[2..] {
        let answer = server.rest.resume("/events", &event.id).await.next().await;
        assert_eq!(answer.json, json!({"type": "resync_required", "reason": "lost"}), "{}", event.id);
    }
    let rest = server.rest.resume("/events", &seen[1].id).await.through(4).await;
    assert_eq!(rest[0].json["session"]["title"], "Other");
}

#[tokio::test]
async fn a_folder_has_one_server() {
    let mut server = Setup::new().start();
    let (code, words) = server.setup().fail_to_start();
    assert_eq!(code, Some(1));
    let holder = format!("process {}", server.pid());
    assert!(words.contains(&holder) && words.contains("OPENCODE_DATA_DIR"), "{words}");
    assert_eq!(words.lines().count(), 1, "one sentence: {words}");
    server.rest.read("/session").await;
    server.crash_and_restart();
    server.rest.read("/session").await;
}

#[tokio::test]
async fn data_inside_the_workspace_is_refused() {
    let setup = Setup::new();
    for folder in [setup.workspace(), setup.workspace().join("data")] {
        let (code, words) = setup.env("OPENCODE_DATA_DIR", folder.display()).fail_to_start();
        assert_eq!(code, Some(1));
        assert!(words.contains("inside the workspace"), "{words}");
        assert_eq!(words.lines().count(), 1, "one sentence: {words}");
    }
    assert!(!setup.workspace().join("data").exists(), "nothing is left in the workspace");
}

#[tokio::test]
async fn sigterm_ends_streams_and_turn_and_then_the_process() {
    let model = Model::start(Dialect::OpenAi, [vec![text("I am "), Step::Stall]]).await;
    let mut server = Setup::with(&model).start();
    server.rest.read("/session").await;
    let mut follower = server.rest.stream("/events?after=0").await;
    let mut messages = server.rest.stream("/messages/stream").await;
    let mut turn = server.rest.say(&json!({"text": "Who are you?"})).await;
    turn.until_said("am ").await;
    server.terminate();
    let closed = |events: &[Event]| {
        let last = &events.last().expect("an event").json;
        assert_eq!(last["type"], "stream_closed", "{last}");
        assert_eq!((&last["code"], &last["retryable"]), (&json!("draining"), &json!(true)));
        assert!(last["retry_after_ms"].is_u64());
        assert_eq!(last.get("seq"), None, "frames are no events");
    };
    // Who follows the turn sees its end, and who follows the log why the stream ends.
    let (ending, followed) = (turn.rest().await, follower.rest().await);
    for events in [&followed, &messages.rest().await] {
        closed(events);
    }
    // Without the frames: where between the events a stream tells of the drain is its own affair.
    let [ending, followed] =
        [ending, followed].map(|all| all.into_iter().filter(|event| !event.json["seq"].is_null()).collect::<Vec<_>>());
    assert_eq!(&followed[followed.len() - ending.len()..], ending);
    ended_as_interrupted(&ending);
    assert_eq!(soon("the end of the server", server.ended()).await.code(), Some(0));
    model.left(1).await;

    // It was ended in time, not left to the next start.
    server.crash_and_restart();
    assert!(!server.log().contains("closed a turn"), "{}", server.log());
    read_as_interrupted(&server, &ending).await;
    check_against_reads(&server).await;
}
