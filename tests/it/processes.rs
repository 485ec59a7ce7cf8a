//! What the agent's commands run, as clients see it, and ending one of them.

use serde_json::json;

use crate::{
    events::check_against_reads,
    support::{
        Client, Dialect, Door, Model, Server, Setup, Value,
        model::{bash, call, text},
        processes::Mark,
        until,
    },
    through_every_door,
    tools::events_named,
};

through_every_door! {
    commands_that_run_are_listed;
    a_command_is_ended_and_the_turn_goes_on;
}

async fn marked(door: Door) -> (Model, Server, Mark, Client) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (setup, mark) = Setup::with(&model).marked();
    let server = setup.start();
    let client = server.through(door);
    (model, server, mark, client)
}

/// What is listed once it is as `check` wants it.
async fn listed(client: &Client, what: &str, check: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    until(what, async || {
        let reply = client.list_processes().await.expect("a list");
        assert_eq!(reply.cursor.as_deref(), reply.body["as_of"].as_str());
        let listed = reply.body["processes"].as_array().expect("a list").clone();
        let total = listed.len();
        assert_eq!(reply.body["pagination"], json!({"total": total, "limit": total, "offset": 0, "has_more": false}));
        check(&listed).then_some(listed)
    })
    .await
}

async fn commands_that_run_are_listed(door: Door) {
    let (model, server, mark, client) = marked(door).await;
    assert_eq!(listed(&client, "nothing", |_| true).await, [json!(null); 0]);
    // A program that listens: this server itself.
    let folder = server.setup().folder("another").display().to_string();
    let another =
        format!("env OPENCODE_DATA_DIR={folder} OPENCODE_WORKSPACE={folder}-w {}", env!("CARGO_BIN_EXE_opencode-api"));
    let busy = "(setsid sleep 1001 &); while :; do :; done";
    model.then(vec![call("bash", &json!({"command": another, "background": true})), bash(busy)]);
    let stream = server.rest.say(&json!({"text": "Run both."})).await;
    let listed = listed(&client, "two that work", |listed| {
        listed.len() == 2
            && listed[0]["ports"].as_array().is_some_and(|ports| ports.len() == 1)
            && listed[1]["cpu_ms"].as_u64() >= Some(50)
    })
    .await;
    let [job, foreground] = listed.as_slice() else { panic!("not two: {listed:?}") };
    let log = server.rest.log().await;
    let calls: Vec<&Value> = events_named(&log, "tool_call_started").collect();
    let started = |of: &Value| of["started_at"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    for (found, kind, command, call) in
        [(job, "job", another.as_str(), calls[0]), (foreground, "foreground", busy, calls[1])]
    {
        let expected = json!({
            "id": found["id"],
            "pid": found["pid"],
            "command": command,
            "kind": kind,
            "turn_id": call["turn_id"],
            "tool_call_id": call["tool_call_id"],
            "started_at": found["started_at"],
            "processes": found["processes"],
            "cpu_ms": found["cpu_ms"],
            "rss_bytes": found["rss_bytes"],
            "ports": found["ports"],
        });
        assert_eq!(*found, expected);
        assert!(found["id"].as_str().is_some_and(|id| id.starts_with("proc_")));
        let there = mark.all();
        let pid = found["pid"].as_u64().expect("a pid");
        assert!(there.iter().any(|(known, _)| u64::from(*known) == pid), "{pid}: {there:?}");
        assert!(started(found) >= call["at"].as_str().expect("a time").parse().expect("a time"));
        // A mebibyte is less than any of them has, a few gibibytes more.
        let rss = found["rss_bytes"].as_u64().expect("a number");
        assert!((1 << 20..1 << 32).contains(&rss), "{rss}");
    }
    assert_eq!((&foreground["processes"], &foreground["ports"]), (&json!(2), &json!([])), "the shell and a sleep");
    // It is they that are listened on.
    for port in job["ports"].as_array().expect("a list") {
        let health = reqwest::get(format!("http://127.0.0.1:{port}/health")).await.expect("an answer");
        assert_eq!(health.status(), 200);
    }
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    assert_eq!((&canceled["canceled"], mark.others(&server)), (&json!(true), Vec::new()));
    assert_eq!(client.list_processes().await.expect("a list").body["processes"], json!([]));
    drop(stream);
}

async fn a_command_is_ended_and_the_turn_goes_on(door: Door) {
    let (model, server, mark, client) = marked(door).await;
    let unknown = client.end_process(&json!("proc_of_nobody")).await.expect_err("a refusal");
    assert_eq!((unknown.code.as_str(), unknown.retryable), ("not_found", false));
    assert!(unknown.detail.contains("proc_of_nobody"), "{}", unknown.detail);
    let command = "echo so far; (setsid sleep 1001 &); sleep 1001";
    model.then(vec![bash(command)]);
    model.then(vec![text("Well then.")]);
    let mut stream = server.rest.say(&json!({"text": "Run."})).await;
    stream.until("tool_output_delta").await;
    let listed = listed(&client, "all of it", |listed| listed.len() == 1 && listed[0]["processes"] == 3).await;
    let (id, pid) = (&listed[0]["id"], &listed[0]["pid"]);
    let ended = client.end_process(id).await.expect("an answer").body;
    assert_eq!(mark.others(&server), [""; 0], "{ended}");
    let mut named: Vec<&Value> = ended["processes_ended"].as_array().expect("a list").iter().collect();
    named.sort_by_key(|process| process["pid"] != *pid);
    let [shell, one, other] = named.as_slice() else { panic!("not three: {ended}") };
    assert_eq!(**shell, json!({"pid": pid, "command": command, "how": "term"}));
    for sleep in [one, other] {
        assert_eq!((&sleep["command"], &sleep["how"]), (&json!("sleep 1001"), &json!("term")));
    }
    assert_eq!(ended["processes_left"], json!([]));
    assert!(ended["took_ms"].as_u64().is_some_and(|took| took < 3_000), "{ended}");
    // The model is told, and decides what comes of it.
    let events = stream.rest().await;
    let completed = events_named(&events, "tool_call_completed").next().expect("it was completed");
    let words = "the user ended this command; its output so far follows\nso far\n";
    assert_eq!((&completed["output"], &completed["is_error"]), (&json!(words), &json!(true)));
    assert_eq!(events.last().map(|event| &event.json["finish_reason"]), Some(&json!("end_turn")));
    let again = client.end_process(id).await.expect_err("a refusal");
    assert_eq!(again.code, "not_found");
    check_against_reads(&server).await;

    // A job is one too.
    model.then(vec![call("bash", &json!({"command": "exec sleep 1001", "background": true}))]);
    model.then(vec![text("It runs.")]);
    server.rest.ask("In the background.").await;
    let listed = client.list_processes().await.expect("a list").body["processes"].clone();
    let ended = client.end_process(&listed[0]["id"]).await.expect("an answer").body;
    assert_eq!(ended["processes_ended"][0]["pid"], listed[0]["pid"]);
    assert_eq!(mark.others(&server), [""; 0]);
    model.then(vec![call("job", &json!({"id": listed[0]["id"], "action": "output"}))]);
    model.then(vec![text("I see.")]);
    let events = server.rest.say(&json!({"text": "What of it?"})).await.rest().await;
    let completed = events_named(&events, "tool_call_completed").next().expect("it was completed");
    assert_eq!(completed["output"], "(no new output)\nit has ended: the user ended it");
}
