//! A model that goes in circles is told so, and a provider that only says that it is there is not waited for.

use std::time::Duration;

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Model, Setup, Step,
        model::{bash, call, text},
    },
};

in_both_dialects! {
    the_same_call_for_the_third_time_is_told;
    pings_are_no_progress;
}

async fn the_same_call_for_the_third_time_is_told(dialect: Dialect) {
    let ls = || call("ls", &json!({"path": "."}));
    let fails = || bash("exit 3");
    let answers = [
        vec![ls()],
        vec![ls(), bash("true")],
        // Another one was in between: it begins anew. Two of these stand in one answer.
        vec![ls(), ls()],
        vec![text("Again."), ls()],
        vec![ls()],
        vec![fails()],
        vec![fails()],
        vec![fails()],
        vec![text("I give up.")],
        vec![ls()],
        vec![text("Done.")],
    ];
    let model = Model::start(dialect, answers).await;
    let server = Setup::with(&model).start();
    server.rest.ask("Look.").await;
    let results = async || -> Vec<usize> {
        let messages = server.rest.messages().await;
        let parts = messages.iter().filter(|message| message["role"] == "tool");
        let parts = parts.flat_map(|message| message["parts"].as_array().expect("parts").clone());
        let told = |text: &str| -> usize {
            let Some((_, rest)) = text.split_once("same arguments for the ") else { return 0 };
            rest[..rest.find(|letter: char| !letter.is_ascii_digit()).expect("words")].parse().expect("a number")
        };
        parts.map(|part| told(part["content"].as_str().expect("a text"))).collect()
    };
    assert_eq!(results().await, [0, 0, 0, 0, 0, 3, 4, 0, 0, 3]);
    // What happened in another turn is another matter.
    server.rest.ask("And now?").await;
    assert_eq!(results().await.last(), Some(&0));
    check_against_reads(&server).await;
}

async fn pings_are_no_progress(dialect: Dialect) {
    let pings = || Step::Pings(Duration::from_millis(50));
    let model = Model::start(dialect, [vec![pings()], vec![text("Hm "), pings()], vec![text("Yes.")]]).await;
    let setup = Setup::with(&model).env("OPENCODE_FIRST_TOKEN_SECONDS", 1).env("OPENCODE_BETWEEN_TOKENS_SECONDS", 1);
    let server = setup.start();
    let events = server.rest.say(&json!({"text": "Is it so?"})).await.rest().await;
    let retries = events.iter().filter(|event| event.name == "model_retry").map(|event| &event.json["code"]);
    assert_eq!(retries.collect::<Vec<_>>(), ["provider_timeout", "provider_timeout"]);
    let completed = &events.last().expect("an end").json;
    assert_eq!(completed["finish_reason"], "end_turn");
    model.left(2).await;
    let ledger = server.rest.read("/session/ledger").await["calls"].clone();
    let outcomes: Vec<_> = (0..3).map(|row| ledger[row]["outcome"].clone()).collect();
    assert_eq!(outcomes, ["provider_timeout", "provider_timeout", "ok"]);
}
