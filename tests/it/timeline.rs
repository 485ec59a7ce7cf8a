//! Where a turn's time went: in parts that add up to all of it, each where it belongs.

use serde_json::json;

use crate::{
    in_both_dialects,
    permissions::requested,
    support::{
        Dialect, Door, Gate, Model, Server, Setup, Step, Value,
        model::{bash, call, text},
        names, until,
    },
    through_every_door,
};

in_both_dialects! {
    each_part_is_where_it_belongs;
    a_turn_that_ended_badly_adds_up_too;
    waiting_for_a_turn_and_for_a_permission_have_their_parts;
}

through_every_door! {
    it_is_read_through_each_door;
}

const PARTS: [&str; 9] = [
    "queue_ms",
    "model_wait_ms",
    "model_stream_ms",
    "retry_wait_ms",
    "tools_ms",
    "permission_ms",
    "snapshots_ms",
    "storing_ms",
    "other_ms",
];

fn ms(timeline: &Value, part: &str) -> i64 {
    timeline[part].as_i64().unwrap_or_else(|| panic!("no {part}: {timeline}"))
}

/// Its parts add up, to what its times say where it has ended.
#[track_caller]
fn adds_up(turn: &Value) -> Value {
    let timeline = turn["timeline"].clone();
    let sum: i64 = PARTS.iter().map(|part| ms(&timeline, part)).sum();
    assert_eq!(sum, ms(&timeline, "wall_ms"), "{timeline}");
    let at = |name: &str| turn[name].as_str().map(|text| text.parse::<jiff::Timestamp>().expect("a time"));
    if let (Some(created), Some(finished)) = (at("created_at"), at("finished_at")) {
        assert_eq!(i128::from(sum), finished.duration_since(created).as_millis(), "{turn}");
    }
    timeline
}

async fn read(server: &Server, turn: &Value) -> Value {
    server.rest.read(&format!("/turns/{}", turn["id"].as_str().expect("an id"))).await
}

async fn each_part_is_where_it_belongs(dialect: Dialect) {
    let (first, later, last) = (Gate::new(), Gate::new(), Gate::new());
    let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let answers = [
        vec![Step::Http { status: 529, headers: vec![("retry-after", "1".into())], body }],
        vec![
            Step::Wait(first.clone()),
            text("Let me see."),
            Step::Wait(later.clone()),
            bash("sleep 0.4"),
            bash("sleep 0.2"),
        ],
        // Side by side.
        vec![call("ls", &json!({})), call("glob", &json!({"pattern": "*"}))],
        vec![text("Done."), Step::Wait(last.clone())],
    ];
    let model = Model::start(dialect, answers).await;
    let server = Setup::with(&model).start();
    server.version().await;
    let mut stream = server.rest.stream("/events?after=0").await;
    let turn = server.rest.begin("Look.").await;
    model.asked(1).await;
    let waited = std::time::Duration::from_millis(300);
    tokio::time::sleep(waited).await;
    let live = adds_up(&read(&server, &turn).await);
    assert!(ms(&live, "retry_wait_ms") >= 1000 && ms(&live, "model_wait_ms") >= 290, "{live}");
    assert_eq!((ms(&live, "model_stream_ms"), ms(&live, "tools_ms")), (0, 0), "{live}");
    first.open();
    stream.until("content_delta").await;
    tokio::time::sleep(waited).await;
    later.open();
    last.open();
    stream.until("turn_completed").await;
    let turn = read(&server, &turn).await;
    let timeline = adds_up(&turn);
    assert!((1000..1400).contains(&ms(&timeline, "retry_wait_ms")), "{timeline}");
    assert!(ms(&timeline, "model_wait_ms") >= 290 && ms(&timeline, "model_stream_ms") >= 290, "{timeline}");
    assert!((600..1500).contains(&ms(&timeline, "tools_ms")), "{timeline}");
    assert_eq!((ms(&timeline, "permission_ms"), ms(&timeline, "queue_ms") < 100), (0, true), "{timeline}");
    // Each tool with the call that it was, and how long it ran itself.
    let tools = timeline["tools"].as_array().expect("tools");
    let mut called: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().expect("a name")).collect();
    called[2..].sort_unstable();
    assert_eq!(called, ["bash", "bash", "glob", "ls"]);
    assert!(ms(&tools[0], "ms") >= 400 && ms(&tools[1], "ms") >= 200, "{timeline}");
    let log = server.rest.log().await;
    let completed = log.iter().filter(|event| event.name == "tool_call_completed");
    let ids: Vec<_> = completed.map(|event| event.json["tool_call_id"].clone()).collect();
    assert!(tools.iter().all(|tool| ids.contains(&tool["tool_call_id"])), "{timeline}");
    // A list has the parts alone.
    let listed = server.rest.read("/turns").await["turns"][0].clone();
    assert_eq!(
        (&listed["timeline"]["tools_ms"], listed["timeline"].get("tools")),
        (&timeline["tools_ms"], Some(&json!([])))
    );
}

async fn a_turn_that_ended_badly_adds_up_too(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("I am "), Step::Stall]]).await;
    let mut server = Setup::with(&model).start();
    let mut stream = server.rest.stream("/events?after=0").await;
    let turn = server.rest.begin("Go.").await;
    stream.until("content_delta").await;
    server.rest.post("/agent/cancel", &json!({})).await.ok();
    let ended = read(&server, &turn).await;
    assert_eq!(ended["finish_reason"], "canceled");
    adds_up(&ended);
    model.then(vec![bash("sleep 60")]);
    let sent = json!({"text": "Go.", "budget": {"seconds": 1}});
    let events = server.rest.say(&sent).await.rest().await;
    assert_eq!(names(&events).last().map(|name| &**name), Some("turn_completed"));
    let ended = read(&server, &json!({"id": events[0].turn_id()})).await;
    let timeline = adds_up(&ended);
    assert!(ms(&timeline, "tools_ms") >= 900, "{timeline}");
    // It is kept, and of one that a crash has ended nobody knows.
    model.then(vec![Step::Stall]);
    let crashed = server.rest.begin("Go.").await;
    model.asked(2).await;
    server.crash_and_restart();
    assert_eq!(adds_up(&read(&server, &ended).await), timeline);
    assert_eq!(read(&server, &crashed).await.get("timeline"), None);
}

/// A turn waits for the one before it, which waits for a permission until its time is used up.
async fn waiting_for_a_turn_and_for_a_permission_have_their_parts(dialect: Dialect) {
    let model = Model::start(dialect, [vec![bash("touch file")], vec![text("Done.")]]).await;
    let server = Setup::with(&model).asking().start();
    let mut stream = server.rest.say(&json!({"text": "Write.", "budget": {"seconds": 1}})).await;
    requested(&mut stream).await;
    let queued = json!({"text": "And then?", "when_busy": "queue"});
    let queued = server.through(Door::Rest).begin_turn(queued).await.expect("a turn").body;
    let events = stream.rest().await;
    let first = read(&server, &json!({"id": events[0].turn_id()})).await;
    assert_eq!(first["finish_reason"], "budget_exhausted", "{first}");
    let timeline = adds_up(&first);
    assert!((800..1300).contains(&ms(&timeline, "permission_ms")), "{timeline}");
    assert!(ms(&timeline, "tools_ms") < 100, "{timeline}");
    let mut second = Value::Null;
    until("the queued turn's end", async || {
        second = read(&server, &queued).await;
        (second["status"] == "completed").then_some(())
    })
    .await;
    let timeline = adds_up(&second);
    assert!((700..1600).contains(&ms(&timeline, "queue_ms")) && ms(&timeline, "permission_ms") == 0, "{timeline}");
}

async fn it_is_read_through_each_door(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![bash("true")], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let turn = server.rest.ask("Go.").await["turn"].clone();
    adds_up(&turn);
    let read = server.through(door).get_turn(&turn["id"], 0).await.expect("a turn").body;
    assert_eq!(read["timeline"], turn["timeline"]);
}
