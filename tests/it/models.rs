//! Models, and the server's health with and without one.

use serde_json::json;

use crate::{
    support::{
        Dialect, Door, Model, Server, Setup, Value,
        model::{KEY, refusal, text},
    },
    through_every_door,
};

through_every_door! {
    every_known_model_says_whether_it_can_be_used;
    the_model_that_is_set_holds;
    without_a_model_the_server_is_healthy_and_says_what_is_missing;
    health_tells_of_a_failing_model;
}

async fn every_known_model_says_whether_it_can_be_used(door: Door) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let reply = client.list_models(json!({})).await.expect("a list");
    let models = reply.body["models"].as_array().expect("a list");
    assert!(models.len() > 150, "{} models", models.len());
    let total = models.len();
    let pagination = json!({"total": total, "limit": total, "offset": 0, "has_more": false});
    assert_eq!((&reply.body["pagination"], &reply.body["as_of"]), (&pagination, &json!(reply.cursor)));
    let find = |id: &str| models.iter().find(|model| model["id"] == id).unwrap_or_else(|| panic!("no {id}"));
    let expected = json!({
        "id": "anthropic/claude-opus-5-5",
        "name": find("anthropic/claude-opus-5-5")["name"],
        "provider": "anthropic",
        "context_window": 1_000_000,
        "max_output_tokens": 128_000,
        "price_known": true,
        "cost_per_1m_input": 4.0,
        "cost_per_1m_output": 20.0,
        "cost_per_1m_cache_read": 0.2,
        "cost_per_1m_cache_write": 5.0,
        "supports_attachments": true,
        "supports_tools": true,
        "supports_reasoning": true,
        "capabilities": find("anthropic/claude-opus-5-5")["capabilities"],
        "available": true,
    });
    assert_eq!(*find("anthropic/claude-opus-5-5"), expected);
    let off = find("openai/gpt-5.2");
    assert_eq!(off["available"], false);
    assert!(off["unavailable_reason"].as_str().is_some_and(|words| words.contains("OPENAI_API_KEY")), "{off}");
    assert_eq!(find("mock/demo")["available"], true);
    for model in models {
        let id = model["id"].as_str().expect("an id");
        assert!(id.starts_with(&format!("{}/", model["provider"].as_str().expect("a name"))), "{id}");
        assert_eq!(model["available"] == false, model.get("unavailable_reason").is_some(), "{model}");
    }
    let own = client.list_models(json!({"provider": "mock"})).await.expect("a list").body;
    assert_eq!(own["pagination"]["total"], 2);
    let refusal = client.list_models(json!({"provider": "nonsense"})).await.expect_err("a refusal");
    assert_eq!((refusal.code.as_str(), refusal.fields), ("invalid_argument", vec!["provider".to_owned()]));
}

async fn the_model_that_is_set_holds(door: Door) {
    let model = Model::start(Dialect::Anthropic, [vec![text("Yes.")]]).await;
    let mut server = Setup::with(&model).start();
    let set = server.through(door).set_model(json!({"model_id": "claude-sonnet-5-5"})).await.expect("a model");
    assert_eq!((&set.body["id"], &set.body["available"]), (&json!("anthropic/claude-sonnet-5-5"), &json!(true)));
    let log = server.rest.log().await;
    let changed = &log.last().expect("an event").json;
    assert_eq!((&changed["type"], &changed["model"]), (&json!("model_changed"), &set.body["id"]));
    // Once more is no change.
    server.through(door).set_model(json!({"model_id": "anthropic/claude-sonnet-5-5"})).await.expect("a model");
    assert_eq!(server.rest.log().await.len(), log.len());
    server.crash_and_restart();
    assert_eq!(server.rest.ask("Is it so?").await["turn"]["model"], "anthropic/claude-sonnet-5-5");

    let client = server.through(door);
    for (id, code, words) in [
        ("", "invalid_argument", "model_id"),
        ("mock/dmeo", "invalid_argument", "did you mean \"mock/demo\""),
        ("groq/openai/gpt-oss-20b", "no_model", "GROQ_API_KEY"),
        ("groq/openai/gpt-oss-20", "invalid_argument", "did you mean \"groq/openai/gpt-oss-20b\""),
        ("groq/llama-3.3-70b-versatile", "invalid_argument", "did you mean \"groq/"),
    ] {
        let refusal = client.set_model(json!({ "model_id": id })).await.expect_err("a refusal");
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.detail.contains(words), "{refusal:?}");
    }
    assert_eq!(client.get_agent_status().await.expect("a status").body["model"], "anthropic/claude-sonnet-5-5");
}

fn checks(model: &str) -> Value {
    json!({"store": "ok", "workspace": "ok", "model": model})
}

async fn healthy(server: &Server, door: Door, model: &str) {
    let health = server.through(door).health().await.expect("an answer").body;
    let expected = json!({
        "status": "serving",
        "version": env!("CARGO_PKG_VERSION"),
        "checks": checks(model),
        "uptime_s": health["uptime_s"],
        "timestamp": health["timestamp"],
    });
    assert_eq!(health, expected);
}

async fn without_a_model_the_server_is_healthy_and_says_what_is_missing(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    healthy(&server, door, "missing").await;
    let say = json!({"parts": [{"type": "text", "text": "Go."}]});
    let refusal = client.begin_turn(say.clone()).await.expect_err("a refusal");
    assert_eq!((refusal.code.as_str(), refusal.retryable), ("no_model", false));
    for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "LOCAL_ENDPOINT", "mock/demo"] {
        assert!(refusal.detail.contains(name), "{}", refusal.detail);
    }
    assert_eq!(client.get_agent_status().await.expect("a status").body, json!({"status": "idle"}));
    assert_eq!(client.get_session_stats().await.expect("counts").body.get("current_model"), None);
    let mut named = say;
    named["model"] = "mock/demo".into();
    let turn = client.begin_turn(named).await.expect("a turn").body;
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    healthy(&server, door, "missing").await;
}

async fn health_tells_of_a_failing_model(door: Door) {
    let model =
        Model::start(Dialect::OpenAi, [vec![refusal(401, &format!("{KEY} is no key"))], vec![text("Yes.")]]).await;
    let server = Setup::with(&model).start();
    healthy(&server, door, "ok").await;
    assert_eq!(server.rest.ask("Go.").await["turn"]["error"]["code"], "provider_error");
    healthy(&server, door, "failing").await;
    server.rest.ask("Go.").await;
    healthy(&server, door, "ok").await;
}
