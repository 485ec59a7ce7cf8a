//! A turn's events, exactly as the contract has them, and what a client makes of them.

use std::time::Duration;

use serde_json::json;

use crate::{
    in_both_dialects,
    support::{
        Dialect, Model, Server, Setup, Sse, Step, Value,
        fold::Messages,
        grammar,
        model::{bash, call, text},
        names,
        sse::outline,
    },
};

in_both_dialects! {
    a_turn_with_tools_keeps_the_grammar;
    who_reads_in_the_middle_and_follows_ends_in_the_same_state;
}

/// An answer with all kinds of parts, and its last word after the tools.
fn long_turn() -> [Vec<Step>; 2] {
    [
        vec![
            Step::Reasoning { text: "Let me look.".into(), signature: "c2lnbmVk" },
            text("I look at the files."),
            call("ls", &json!({})),
            call("view", &json!({"path": "README.md"})),
            bash("echo one; echo two"),
        ],
        vec![text("It is a project.")],
    ]
}

/// The log keeps the grammar, and folded it is what `GET /messages` answers.
pub async fn check_against_reads(server: &Server) {
    let folded = grammar::check(&server.rest.log().await);
    assert_eq!(folded.0, server.rest.messages().await);
}

async fn a_turn_with_tools_keeps_the_grammar(dialect: Dialect) {
    let model = Model::start(dialect, long_turn()).await;
    let server = Setup::with(&model).start();
    let events = server.rest.say(&json!({"text": "What is this?"})).await.rest().await;
    let answer = ["message_created", "message_updated", "message_completed"];
    let tools = [
        "message_created",
        // The two that only read run side by side.
        "tool_call_started",
        "tool_call_completed",
        "message_updated",
        "tool_call_completed",
        "message_updated",
        "tool_call_started",
        "tool_call_completed",
        "message_updated",
    ];
    let begin = ["message_created", "turn_started", "agent_status_changed"];
    let end = ["agent_status_changed", "turn_completed"];
    assert_eq!(outline(&events), [&begin[..], &answer, &tools, &answer, &end].concat());

    let turn_id = events[0].turn_id();
    assert!(events.iter().all(|event| event.turn_id() == turn_id), "a view of its own turn");
    let messages = server.rest.messages().await;
    let kinds = |message: &Value| -> Vec<String> {
        let parts = message["parts"].as_array().expect("parts").iter();
        parts.map(|part| part["type"].as_str().expect("a type").to_owned()).collect()
    };
    assert_eq!(kinds(&messages[0]), ["text"]);
    assert_eq!(kinds(&messages[1]), ["reasoning", "text", "tool_call", "tool_call", "tool_call", "finish"]);
    assert_eq!(kinds(&messages[2]), ["tool_result", "tool_result", "tool_result"]);
    assert_eq!(kinds(&messages[3]), ["text", "finish"]);
    assert_eq!(messages[1]["parts"][0], json!({"type": "reasoning", "thinking": "Let me look."}), "no seal is shown");
    assert_eq!(messages[1]["parts"][5]["reason"], "tool_use");
    assert_eq!(messages[3]["parts"][1]["reason"], "end_turn");

    let turn = server.rest.read(&format!("/turns/{}", turn_id.as_str().expect("an id"))).await;
    let last = &events.last().expect("an event").json;
    let figures = json!({"seq": last["seq"], "at": last["at"], "turn_id": turn_id, "type": "turn_completed",
        "finish_reason": "end_turn", "usage": turn["usage"], "message_id": messages[3]["id"],
        "version_before": "v1", "version_after": "v1"});
    assert_eq!(*last, figures);
    assert_eq!(turn["first_cursor"], events[0].id);
    assert_eq!(turn["last_cursor"], events.last().expect("an event").id);

    // The same through the other streams, to the byte.
    let path = format!("/events?after=0&turn_id={}", turn_id.as_str().expect("an id"));
    let all = server.rest.stream(&path).await.rest().await;
    assert_eq!(all, events);
    check_against_reads(&server).await;
}

#[tokio::test]
async fn whole_messages_come_without_deltas() {
    let model = Model::start(Dialect::Anthropic, long_turn()).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.stream("/messages/stream").await;
    let mut rest = server.rest.stream("/messages/stream?after=0").await;
    let events = server.rest.say(&json!({"text": "What is this?"})).await.rest().await;
    server.rest.delete("/messages").await;
    let seen = stream.until("messages_cleared").await;
    let mut expected = names(&events);
    expected.retain(|name| ["message_created", "message_updated"].contains(name));
    expected.push("messages_cleared");
    assert_eq!(names(&seen), expected);
    assert_eq!(rest.until("messages_cleared").await, seen);
    let seen_twice = seen.iter().all(|event| events.contains(event) || event.name == "messages_cleared");
    assert!(seen_twice, "the same events under the same ids");
}

#[tokio::test]
async fn readers_of_one_log_see_the_same_bytes() {
    let model = Model::start(Dialect::OpenAi, long_turn()).await;
    let server = Setup::with(&model).start();
    let head = server.rest.get("/session").await.header("event-cursor").expect("a cursor").to_owned();
    let path = format!("/events?after={head}");
    let mut live = server.rest.stream(&path).await;
    let mut also = server.rest.stream(&path).await;
    server.rest.ask("What is this?").await;
    live.until("turn_completed").await;
    also.until("turn_completed").await;
    let mut later = server.rest.stream(&path).await;
    later.until("turn_completed").await;
    assert_eq!(String::from_utf8_lossy(&live.raw), String::from_utf8_lossy(&also.raw));
    assert_eq!(String::from_utf8_lossy(&live.raw), String::from_utf8_lossy(&later.raw));
}

/// What a client has when it reads the state at some moment, page by page.
struct Snapshot {
    messages: Messages,
    as_of: String,
    as_of_seq: u64,
    /// Each page by itself: up to where it holds, and what it shows.
    pages: Vec<(u64, Vec<Value>)>,
}

async fn snapshot(server: &Server, limit: usize) -> Snapshot {
    let mut found = Snapshot { messages: Messages::default(), as_of: String::new(), as_of_seq: 0, pages: Vec::new() };
    let mut path = format!("/messages?limit={limit}");
    loop {
        let answer = server.rest.get(&path).await;
        let header = answer.header("event-cursor").map(str::to_owned);
        let page = answer.ok();
        assert_eq!(header.as_deref(), page["as_of"].as_str());
        let as_of_seq = page["as_of_seq"].as_u64().expect("a number");
        let messages = page["messages"].as_array().expect("a list");
        found.pages.push((as_of_seq, messages.clone()));
        if found.as_of.is_empty() {
            found.as_of = page["as_of"].as_str().expect("a cursor").to_owned();
            found.as_of_seq = as_of_seq;
            assert!(found.as_of.ends_with(&format!("-{}", found.as_of_seq)));
        }
        found.messages.0.extend(messages.iter().cloned());
        let Some(next) = page["pagination"]["next_cursor"].as_str() else { return found };
        path = format!("/messages?limit={limit}&cursor={next}");
    }
}

async fn who_reads_in_the_middle_and_follows_ends_in_the_same_state(dialect: Dialect) {
    let words = "one two three four five six seven eight nine ten ".repeat(3);
    let pause = Duration::from_millis(4);
    let model = Model::start(
        dialect,
        [
            vec![
                Step::Reasoning { text: "Hm, well.".into(), signature: "c2ln" },
                Step::Slowly(words.clone(), pause),
                bash("for i in 1 2 3 4 5 6; do echo $i; sleep 0.06; done"),
                call("view", &json!({"path": "README.md"})),
            ],
            vec![Step::Slowly(words, pause)],
        ],
    )
    .await;
    let server = Setup::with(&model).start();
    let turn = server.rest.begin("Count.").await;
    let (mut snapshots, mut followers) = (Vec::new(), Vec::new());
    loop {
        let found = snapshot(&server, 1 + snapshots.len() % 4).await;
        if snapshots.len() % 16 == 0 {
            let follower = server.rest.stream(&format!("/events?after={}", found.as_of)).await;
            followers.push((found.as_of_seq, follower));
        }
        snapshots.push(found);
        let status = server.rest.read("/agent/status").await;
        if status["status"] == "idle" {
            break;
        }
    }
    server.rest.ended_turn(&turn["id"]).await;
    let (log, last) = (server.rest.log().await, server.rest.messages().await);
    grammar::check(&log);
    assert!(snapshots.len() > 30, "only {} reads came in between", snapshots.len());
    // Every read holds the effect of every event up to its cursor, the text streamed so far included.
    let mut folded = vec![Messages::default()];
    for event in &log {
        let mut next = folded.last().expect("one").clone();
        next.apply(event);
        folded.push(next);
    }
    for (as_of_seq, messages) in snapshots.iter().flat_map(|snapshot| &snapshot.pages) {
        let then = &folded[*as_of_seq as usize];
        assert!(
            messages.iter().all(|message| then.get(&message["id"]) == Some(message)),
            "{messages:?} as of {as_of_seq}"
        );
    }
    for mut snapshot in snapshots {
        for event in log.iter().filter(|event| event.seq() > snapshot.as_of_seq) {
            snapshot.messages.follow(event, snapshot.as_of_seq);
        }
        assert_eq!(snapshot.messages.0, last, "read as of {}", snapshot.as_of_seq);
    }
    for (as_of_seq, mut follower) in followers {
        let expected = log.iter().filter(|event| event.seq() > as_of_seq).map(|event| event.json.clone());
        let expected: Vec<Value> = expected.collect();
        if !expected.is_empty() {
            assert_eq!(bodies(&mut follower, log.len() as u64).await, expected);
        }
    }
}

async fn bodies(stream: &mut Sse, last: u64) -> Vec<Value> {
    stream.through(last).await.into_iter().map(|event| event.json).collect()
}
