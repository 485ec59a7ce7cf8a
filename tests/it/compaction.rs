//! Room in the model's context: old tool output goes first, then a summary stands for what was before.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Door, Event, Model, Server, Setup, Step, Tokens, Value,
        model::{call, refusal, text},
        names,
        wire::Said,
    },
    through_every_door,
};

in_both_dialects! {
    old_tool_output_is_left_out_first;
    what_came_before_is_summarised;
    a_summary_in_the_middle_of_a_turn;
    without_a_summary_old_turns_are_left_out;
    a_prompt_that_is_refused_for_its_length_is_compacted_once;
    cancel_while_a_summary_is_made;
}

through_every_door! {
    a_compaction_is_told_and_read_and_forgotten;
}

const SUMMARY: &str = "The user greets; all is well.";

/// A server whose model has a window of so many tokens.
fn start(model: &Model, window: u32) -> Server {
    let setup = Setup::with(model);
    let (provider, id) = model.id().split_once('/').expect("a provider");
    let models = json!([{"provider": provider, "id": id, "context_window": window, "max_output_tokens": window / 8,
        "input_per_1m": 1.0, "output_per_1m": 1.0, "images": true, "tools": true, "reasoning": true}]);
    let file = setup.folder("models.json");
    std::fs::write(&file, models.to_string()).expect("a file");
    setup.env("OPENCODE_MODELS_FILE", file.display()).start()
}

/// The provider counts so many tokens of prompt.
fn counted(input: u64) -> Step {
    Step::Usage(Tokens { input, output: 10, ..Tokens::default() })
}

/// What was told before and after a summary.
fn users(told: &[Said]) -> Vec<&str> {
    let users = told.iter().map(|said| match said {
        Said::User(text) => text.as_str(),
        other => panic!("not the user: {other:?}"),
    });
    users.collect()
}

fn compacted(log: &[Event]) -> Vec<&Value> {
    log.iter().filter(|event| event.name == "context_compacted").map(|event| &event.json).collect()
}

/// Two turns, of which the second needs a summary.
async fn summarised(dialect: Dialect) -> (Model, Server) {
    let first = vec![counted(19_000), text("Hello.")];
    let model =
        Model::start(dialect, [first, vec![counted(700), text(SUMMARY)], vec![counted(600), text("Well.")]]).await;
    let server = start(&model, 20_000);
    server.rest.ask("Good morning.").await;
    let sent = server.rest.ask("How are you?").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    assert_eq!(sent["message"]["parts"][0]["text"], "Well.", "a summary is no answer");
    (model, server)
}

async fn old_tool_output_is_left_out_first(dialect: Dialect) {
    let view = || call("view", &json!({"path": "large.txt"}));
    let answers = [
        vec![counted(3_000), view(), view()],
        vec![counted(85_000), view()],
        vec![counted(30_000), text("Done.")],
        vec![counted(30_100), text("Yes.")],
        vec![counted(30_200), text("Yes.")],
    ];
    let model = Model::start(dialect, answers).await;
    let mut server = start(&model, 100_000);
    let lines: String = (0..2000).map(|number| format!("line {number:04} of a file with long lines\n")).collect();
    std::fs::write(server.workspace().join("large.txt"), lines).expect("a file");
    server.rest.ask("Read.").await;
    let results = async |number: usize| -> Vec<bool> {
        let told = model.asked(number).await.conversation();
        let whole = |said: &Said| match said {
            Said::Result(text) => Some(text.contains("line 1000 of a file")),
            _ => None,
        };
        told.iter().filter_map(whole).collect()
    };
    assert_eq!(results(1).await, [true, true]);
    assert_eq!(results(2).await, [false, false, true], "the newest stays");
    let log = server.rest.log().await;
    let messages = server.rest.messages().await;
    let [event] = compacted(&log)[..] else { panic!("once") };
    let (before, after) = (event["tokens_before"].as_u64(), event["tokens_after"].as_u64());
    assert!(before > Some(90_000) && after < Some(70_000), "{event}");
    assert_eq!((event.get("summary_message_id"), &event["kept_from_message_id"]), (None, &messages[4]["id"]));
    assert!(messages[2]["parts"][0]["content"].as_str().is_some_and(|text| text.contains("line 1000")), "it is stored");

    // It stays left out, also after a new start.
    server.rest.ask("And?").await;
    assert_eq!(results(3).await, [false, false, true]);
    server.restart().await;
    server.rest.ask("And?").await;
    assert_eq!(results(4).await, [false, false, true]);
    check_against_reads(&server).await;
}

async fn what_came_before_is_summarised(dialect: Dialect) {
    let (model, mut server) = summarised(dialect).await;
    // A call without tools, about what came before the new message.
    let asked = model.asked(1).await;
    assert_eq!(asked.tools(), [""; 0]);
    let told = asked.conversation();
    let [transcript] = users(&told)[..] else { panic!("one text: {told:?}") };
    assert_eq!(transcript, "User: Good morning.\n\nAgent: Hello.\n\n");
    let told = model.asked(2).await.conversation();
    let [summary, message] = users(&told)[..] else { panic!("the summary and the message: {told:?}") };
    assert!(summary.contains(SUMMARY), "{summary}");
    assert_eq!(message, "How are you?");

    let log = server.rest.log().await;
    let turn = log.last().expect("an event").turn_id();
    let events: Vec<Event> = log.iter().filter(|event| event.turn_id() == turn).cloned().collect();
    let begin = ["message_created", "turn_started", "agent_status_changed"];
    let compaction =
        ["agent_status_changed", "message_created", "context_compacted", "message_completed", "agent_status_changed"];
    assert_eq!(names(&events)[..8], [&begin[..], &compaction].concat());
    assert_eq!(events[3].json["current_operation"], "summarising what came before");
    let summary = &events[4].json["message"];
    assert_eq!((&summary["role"], &summary["parts"][0]["text"]), (&json!("assistant"), &json!(SUMMARY)));
    assert_eq!(events[5].json["summary_message_id"], summary["id"]);
    assert!(events[5].json["tokens_before"].as_u64() > Some(18_000));
    // It is paid by the turn.
    let turn = server.rest.read(&format!("/turns/{}", turn.as_str().expect("an id"))).await;
    assert_eq!((&turn["usage"]["prompt_tokens"], &turn["usage"]["cost_usd"]), (&json!(1300), &json!("0.00132")));
    assert_eq!(turn["message_id"], events.last().expect("an event").json["message_id"]);
    assert_ne!(turn["message_id"], summary["id"]);

    // Later prompts begin with it, also after a new start.
    server.crash_and_restart();
    model.then(vec![text("Fine.")]);
    server.rest.ask("Sure?").await;
    let told = model.asked(3).await.conversation();
    assert!(matches!(&told[0], Said::User(text) if text.contains(SUMMARY)), "{told:?}");
    let expected = [Said::User("How are you?".into()), Said::Model("Well.".into()), Said::User("Sure?".into())];
    assert_eq!(told[1..], expected);
    check_against_reads(&server).await;
}

async fn a_summary_in_the_middle_of_a_turn(dialect: Dialect) {
    let busy = Step::Http { status: 503, headers: vec![("retry-after", "0".into())], body: json!({}) };
    let answers = [
        vec![counted(18_500), text("I look."), call("ls", &json!({}))],
        vec![busy],
        vec![text("So far: the folder has a README.")],
        vec![counted(900), call("view", &json!({"path": "README.md"}))],
        vec![counted(1_000), text("It is a project.")],
    ];
    let model = Model::start(dialect, answers).await;
    let server = start(&model, 20_000);
    let sent = server.rest.ask("What is this?").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let told = model.asked(2).await.conversation();
    let [transcript] = users(&told)[..] else { panic!("one text: {told:?}") };
    for piece in ["User: What is this?", "Agent: I look.", "Agent calls ls: {}", "README.md"] {
        assert!(transcript.contains(piece), "no {piece} in {transcript}");
    }
    let told = model.asked(3).await.conversation();
    let [summary, message] = users(&told)[..] else { panic!("the summary and the message: {told:?}") };
    assert!(summary.contains("the folder has a README"), "{summary}");
    assert_eq!(message, "What is this?");
    // The turn goes on with calls and results in pairs.
    let told = model.asked(4).await.conversation();
    assert!(matches!(&told[2..], [Said::Call { .. }, Said::Result(_)]), "{told:?}");
    let log = server.rest.log().await;
    assert_eq!(log.iter().filter(|event| event.name == "model_retry").count(), 1, "a summary is retried as any call");
    check_against_reads(&server).await;
}

async fn without_a_summary_old_turns_are_left_out(dialect: Dialect) {
    let answers = [
        vec![counted(100), text("Hello.")],
        vec![counted(19_000), text("Fine.")],
        vec![refusal(400, "no summaries here")],
        vec![counted(500), call("ls", &json!({}))],
        vec![counted(600), text("Well.")],
        vec![text(SUMMARY)],
        vec![text("Bye.")],
    ];
    let model = Model::start(dialect, answers).await;
    let server = start(&model, 20_000);
    server.rest.ask(&"Good morning. ".repeat(4000)).await;
    server.rest.ask("How are you?").await;
    let sent = server.rest.ask("And now?").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let told = model.asked(3).await.conversation();
    let expected = [Said::User("How are you?".into()), Said::Model("Fine.".into()), Said::User("And now?".into())];
    assert_eq!(told, expected, "from a user's message on");
    assert_eq!(model.asked(4).await.conversation()[..3], expected, "for the rest of the turn, without asking again");
    let log = server.rest.log().await;
    assert!(compacted(&log).is_empty());
    let usage = &log.last().expect("an event").json["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["cost_complete"]), (&json!(1100), &json!(true)));
    check_against_reads(&server).await;
}

async fn a_prompt_that_is_refused_for_its_length_is_compacted_once(dialect: Dialect) {
    // As each of them says it; the window of a model of one's own is not known.
    let (id, body) = match dialect {
        Dialect::Anthropic => (
            "anthropic/my-own",
            json!({"type": "error", "error": {"type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
        ),
        Dialect::OpenAi => (
            "openai/my-own",
            json!({"error": {"type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
                "message": "This model's maximum context length is 8192 tokens."}}),
        ),
    };
    let too_long = || vec![Step::Http { status: 400, headers: Vec::new(), body: body.clone() }];
    let answers =
        [vec![text("Hello.")], too_long(), vec![text(SUMMARY)], vec![text("Well.")], too_long(), vec![text(SUMMARY)]];
    let model = Model::start(dialect, answers).await;
    model.then(too_long());
    let server = Setup::with(&model).start();
    server.rest.send("PUT", "/agent/model", &json!({"model_id": id})).await.ok();
    server.rest.ask("Good morning.").await;
    let sent = server.rest.ask("How are you?").await;
    assert_eq!(
        (&sent["turn"]["finish_reason"], &sent["message"]["parts"][0]["text"]),
        (&json!("end_turn"), &json!("Well."))
    );
    let told = model.asked(3).await.conversation();
    assert!(users(&told)[0].contains(SUMMARY));
    assert_eq!(server.rest.read("/health").await["checks"]["model"], "ok");

    // Refused in short too: that is how the turn ends.
    let sent = server.rest.ask("And now?").await;
    assert_eq!(
        (&sent["turn"]["finish_reason"], &sent["turn"]["error"]["code"]),
        (&json!("error"), &json!("provider_error"))
    );
    assert_eq!(sent["turn"].get("message_id"), None, "a summary is no answer");
    assert_eq!(model.journal().len(), 7);
    assert_eq!(compacted(&server.rest.log().await).len(), 2);
    check_against_reads(&server).await;
}

async fn cancel_while_a_summary_is_made(dialect: Dialect) {
    let model = Model::start(dialect, [vec![counted(19_000), text("Hello.")], vec![text("The "), Step::Stall]]).await;
    let server = start(&model, 20_000);
    server.rest.ask("Good morning.").await;
    let mut stream = server.rest.say(&json!({"text": "How are you?"})).await;
    model.asked(1).await;
    assert_eq!(server.rest.post("/agent/cancel", &json!({})).await.ok()["canceled"], true);
    let ended = stream.rest().await.pop().expect("an event").json;
    assert_eq!((&ended["finish_reason"], &ended["usage"]["cost_complete"]), (&json!("canceled"), &json!(false)));
    model.left(1).await;
    assert_eq!(server.rest.messages().await.len(), 3, "half a summary is none");
    check_against_reads(&server).await;
}

async fn a_compaction_is_told_and_read_and_forgotten(door: Door) {
    let (model, server) = summarised(Dialect::Anthropic).await;
    let client = server.through(door);
    let log = server.rest.log().await;
    let [event] = compacted(&log)[..] else { panic!("once") };
    let mut stream = client.stream_events(json!({"after": "0", "types": "context_compacted"})).await.expect("a stream");
    assert_eq!(&stream.event().await.expect("an event").json, event);
    let session = client.get_session().await.expect("a session").body;
    assert_eq!(session["summary_message_id"], event["summary_message_id"]);
    let summary = client.get_message(&session["summary_message_id"]).await.expect("a message").body;
    assert_eq!(summary["parts"][0]["text"], SUMMARY);

    client.clear_messages().await.expect("cleared");
    assert_eq!(client.get_session().await.expect("a session").body.get("summary_message_id"), None);
    model.then(vec![text("Hello.")]);
    server.rest.ask("Good evening.").await;
    assert_eq!(model.asked(3).await.conversation(), [Said::User("Good evening.".into())]);
}
