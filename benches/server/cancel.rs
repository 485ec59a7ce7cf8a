//! A cancel: from its request to its answer, which comes when the turn's end is stored and its processes are gone.

use std::{net::SocketAddr, time::Instant};

use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    Result,
    process::Home,
    table::{Numbers, Row, Table},
    turn::client,
};

/// What is cancelled: the model's script, the event after which it is, how often, and the most that it may take.
const CASES: [(&str, &str, &str, usize, &str); 3] = [
    ("a model that streams", "delay_ms: 2\nanswers: [{steps: [{text: WORDS}]}]", "content_delta", 200, "p99 50 ms"),
    (
        "a command that ignores TERM",
        "answers: [{steps: [{tool_calls: [{name: bash, input: {command: \"trap '' TERM; echo ready; while :; do sleep 0.1; done\"}}]}]}]",
        "tool_output_delta",
        30,
        "p99 2.5 s",
    ),
    (
        "200 sessions that ignore TERM",
        "answers: [{steps: [{tool_calls: [{name: bash, input: {command: \"for i in $(seq 200); do setsid sh -c 'trap \\\"\\\" TERM; while :; do sleep 1; done' & done; sleep 1; echo ready; wait\"}}]}]}]",
        "tool_output_delta",
        10,
        "p99 2.5 s",
    ),
];

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = client()?;
        for (what, script, after, times, target) in CASES {
            let home = Home::new()?;
            let file = home.path().join("script.yaml");
            std::fs::write(&file, script.replace("WORDS", &"word ".repeat(5_000)))?;
            let script = file.to_str().ok_or("the temporary folder has no name in UTF-8")?;
            let variables = [("OPENCODE_MOCK_SCRIPT", script), ("OPENCODE_PERMISSION_MODE", "auto")];
            let (_server, address) = home.server(&variables)?;
            let (mut took, mut ended) = (Numbers::default(), Numbers::default());
            for _ in 0..times {
                let (time, processes) = cancel(&client, address, after).await?;
                took.push(time);
                ended.push(processes as f64);
            }
            table.add(Row::new(
                format!("POST /agent/cancel to its answer: {what}, {times} times (ms)"),
                target,
                took.percentiles(),
                format!("processes ended each time: {}; {}", ended.spread(), home.sync()?),
            ));
        }
        Ok(())
    })
}

/// Cancels a turn when an event of this type has come. Answers the milliseconds that took, and how many processes ended.
async fn cancel(client: &Client, server: SocketAddr, after: &str) -> Result<(f64, usize)> {
    let message = json!({"text": "Begin.", "model": "mock/script"});
    let mut stream = client
        .post(format!("http://{server}/messages"))
        .header("accept", "text/event-stream")
        .json(&message)
        .send()
        .await?
        .error_for_status()?;
    let (mark, mut seen) = (format!("event: {after}\n"), String::new());
    while !seen.contains(&mark) {
        let chunk = stream.chunk().await?.ok_or_else(|| format!("no {after} in {seen}"))?;
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    let began = Instant::now();
    let answer = client.post(format!("http://{server}/agent/cancel")).json(&json!({})).send().await?;
    let answer: Value = answer.error_for_status()?.json().await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let left = answer["processes_left"].as_array().map_or(0, Vec::len);
    if answer["canceled"] != true || left > 0 {
        return Err(format!("it was not cancelled, or something is left: {answer}").into());
    }
    while stream.chunk().await?.is_some() {}
    Ok((took, answer["processes_ended"].as_array().map_or(0, Vec::len)))
}
