//! Secrets are planted, everything that can be done is done at the loudest logging, and whatever left the server is searched.

use serde_json::json;

use crate::{
    access::operations,
    in_both_dialects,
    support::{
        Answer, Dialect, Door, Model, Setup,
        client::Rest,
        model::{bash, refusal, text},
        repo::bytes_of,
    },
};

in_both_dialects! {
    nothing_that_is_secret_leaves_the_server;
}

const KEY: &str = "canary-of-a-provider-key-0123";
const TOKEN: &str = "canary-of-an-api-token-4567";
const WRONG: &str = "canary-of-a-token-that-is-wrong";

async fn nothing_that_is_secret_leaves_the_server(dialect: Dialect) {
    let model = Model::start(
        dialect,
        [
            vec![bash("env; cat /proc/self/environ /proc/$PPID/environ /proc/1/environ; set")],
            vec![text("Let me see."), bash("cat /proc/*/cmdline")],
            vec![refusal(401, &format!("Incorrect API key provided: {KEY}. You can find it in your account."))],
        ],
    )
    .await;
    let name = match dialect {
        Dialect::Anthropic => "ANTHROPIC_API_KEY",
        Dialect::OpenAi => "OPENAI_API_KEY",
    };
    let setup = Setup::with(&model).env(name, KEY).env("OPENCODE_API_TOKEN", TOKEN).env("RUST_LOG", "trace");
    let server = setup.start();
    let (client, nobody) = (server.rest.clone(), Rest::new(server.rest.base.clone()));
    let mut left: Vec<u8> = Vec::new();
    let events = client.say(&json!({"text": "Tell me all."})).await.rest().await;
    let failed = events.iter().find(|event| event.name == "turn_failed").expect("the model refused");
    assert!(failed.json["message"].as_str().is_some_and(|words| words.contains("Incorrect API key")), "{failed:?}");
    for event in &events {
        left.extend_from_slice(event.json.to_string().as_bytes());
    }
    // Each operation, with the token and without, and with a wrong one in each place where one may be.
    for operation in operations().iter().filter(|operation| !operation.path.contains("stream")) {
        let path = &operation.path;
        let query = if path == "/events" { "?after=0" } else { "" };
        for (client, query) in [
            (&client, query.to_owned()),
            (&nobody, String::new()),
            (&nobody.clone().bearer(WRONG), String::new()),
            (&nobody, format!("?ticket={WRONG}")),
        ] {
            let request = client.request(&operation.method, &format!("{path}{query}"));
            let request = request.header("accept", "application/json").json(&json!({"nothing": 1}));
            let Answer { headers, body, .. } = Answer::of(request).await;
            left.extend_from_slice(format!("{headers:?}").as_bytes());
            left.extend_from_slice(&body);
        }
    }
    for door in [Door::Grpc, Door::GrpcWeb] {
        let page = server.through(door).bearer(TOKEN).list_events(json!({"after": "0"})).await.expect("a page");
        left.extend_from_slice(page.body.to_string().as_bytes());
        let refused = server.through(door).bearer(WRONG).list_events(json!({})).await.expect_err("a refusal");
        left.extend_from_slice(format!("{refused:?}").as_bytes());
    }
    let log = server.log();
    assert!(log.contains("Incorrect API key") || log.len() > 10_000, "it is loud: {log}");
    left.extend_from_slice(log.as_bytes());
    drop(server);
    for (_, _, _, content) in bytes_of(&setup.data_dir()).into_values() {
        left.extend(content);
    }
    for secret in [KEY, TOKEN, WRONG] {
        let found = left.windows(secret.len()).position(|part| part == secret.as_bytes());
        let around =
            found.map(|at| String::from_utf8_lossy(&left[at.saturating_sub(200)..at + secret.len()]).into_owned());
        assert_eq!(around, None, "{secret}");
    }
}
