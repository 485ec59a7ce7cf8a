//! What the log grows by: many results of one answer are not said again with each other, and none is lost for it.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Event, Model, Server, Setup, Value,
        fold::Messages,
        model::{bash, call, text},
    },
};

in_both_dialects! {
    many_results_of_one_answer_grow_the_log_by_their_own_size;
    a_result_that_is_not_said_yet_is_read_and_survives_a_crash;
}

/// Bytes of the JSON of these events.
fn bytes(events: &[&Event]) -> usize {
    events.iter().map(|event| event.json.to_string().len()).sum()
}

/// The text of a file of 76 KB, as the tool shows it.
fn large(server: &Server) {
    let lines: String = (0..2000).map(|number| format!("line {number:04} of a file with long lines\n")).collect();
    std::fs::write(server.workspace().join("large.txt"), lines).expect("a file");
}

async fn many_results_of_one_answer_grow_the_log_by_their_own_size(dialect: Dialect) {
    let answer = vec![call("view", &json!({"path": "large.txt"})); 100];
    // All of it is more than the model's context takes, so that it is summarised before the next call.
    let model = Model::start(dialect, [answer, vec![text("It has many lines.")], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    large(&server);
    let sent = server.rest.ask("Read.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let log = server.rest.log().await;
    let results: Vec<&Event> = log.iter().filter(|event| event.name == "tool_call_completed").collect();
    let updates: Vec<&Event> = log.iter().filter(|event| event.json["message"]["role"] == "tool").collect();
    assert_eq!(results.len(), 100);
    let (once, repeated) = (bytes(&results), bytes(&updates));
    // Twice what the message has at its end, and the results that it is made of.
    assert!(repeated < 2 * once, "{} KiB of results were said again in {} KiB", once / 1024, repeated / 1024);
    assert!(updates.last().expect("an event").json["message"]["finished_at"].is_string());
    check_against_reads(&server).await;
}

async fn a_result_that_is_not_said_yet_is_read_and_survives_a_crash(dialect: Dialect) {
    let mut answer = vec![call("view", &json!({"path": "large.txt"})); 3];
    answer.push(bash("echo begun; sleep 5"));
    let model = Model::start(dialect, [answer]).await;
    let mut server = Setup::with(&model).start();
    large(&server);
    let mut stream = server.rest.stream("/events?after=0").await;
    server.rest.begin("Read.").await;
    let seen = stream.until("tool_output_delta").await;
    let said: Vec<&Event> = seen.iter().filter(|event| event.json["message"]["role"] == "tool").collect();
    let content = |message: &Value, index: usize| message["parts"][index]["content"].as_str().map(str::len);
    let last = &said.last().expect("an event").json["message"];
    // They run side by side, and any may be the last.
    let unsaid: Vec<usize> = (0..3).filter(|index| content(last, *index) == Some(0)).collect();
    let [unsaid] = unsaid[..] else { panic!("the third would mostly repeat: {unsaid:?}") };

    // It is read all the same, cut in lists and whole by itself.
    let list = server.rest.read("/messages?limit=200").await;
    let message = list["messages"][2].clone();
    let mut folded = Messages::default();
    for event in &seen {
        folded.apply(event);
    }
    assert_eq!(folded.get(&message["id"]), Some(&message), "the events have what the read has");
    let part = &message["parts"][unsaid];
    assert_eq!((content(&message, unsaid), &part["truncated"]), (Some(64 * 1024), &json!(true)));
    let path = format!("/messages/{}/parts/{unsaid}", message["id"].as_str().expect("an id"));
    let whole = server.rest.get(&path).await.text();
    assert_eq!(Some(whole.len() as u64), part["size"].as_u64());

    server.crash_and_restart();
    let after = server.rest.messages().await;
    for index in 0..3 {
        assert_eq!(after[2]["parts"][index], message["parts"][index], "what a tool has answered stays");
    }
    assert_eq!(server.rest.get(&path).await.text(), whole);
    assert!(after[2]["parts"][3]["content"].as_str().is_some_and(|words| words.starts_with("begun\n")), "{after:?}");
    check_against_reads(&server).await;
}

#[tokio::test]
async fn a_page_counts_what_a_message_shows_and_not_what_its_row_has() {
    let view = || call("view", &json!({"path": "large.txt"}));
    let mut growing = vec![view(); 30];
    growing.push(bash("echo begun; sleep 30"));
    let model = Model::start(Dialect::Anthropic, [vec![view(); 20], vec![text("Done.")], growing]).await;
    let server = Setup::with(&model).start();
    large(&server);
    server.rest.ask("Read.").await;
    let mut stream = server.rest.stream("/events").await;
    server.rest.begin("Read more.").await;
    stream.until("tool_output_delta").await;
    let answer = server.rest.get("/messages?limit=200").await;
    assert!(answer.body.len() < 3 * 1024 * 1024, "{} bytes", answer.body.len());
    let page = answer.ok();
    let next = page["pagination"]["next_cursor"].as_str().expect("the last message is on a page of its own");
    let rest = server.rest.read(&format!("/messages?limit=200&cursor={next}")).await;
    assert_eq!(rest["messages"][0]["parts"].as_array().map(Vec::len), Some(31));
}
