//! The reply token: what an answer and a looser mode take, since a command of the agent's could call the API itself.

use serde_json::json;

use crate::{
    permissions::{asking, requested},
    support::{
        Dialect, Door, Model, Setup,
        model::{bash, text},
        names,
        permissions::TOKEN,
        until,
    },
    through_every_door,
};

through_every_door! {
    /// Without it nothing is answered and nothing loosened; tightening is free.
    only_the_token_answers_and_loosens;
    /// A message's own mode holds for its turn.
    a_mode_of_a_message_holds_for_its_turn;
}

async fn only_the_token_answers_and_loosens(door: Door) {
    let (_setup, mut server, _model) = asking(vec![vec![bash("touch a")], vec![text("Done.")]]).await;
    let (anybody, trusted) = (server.through(door), server.trusted(door));
    let stranger = server.through(door).with_token("another-token");
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let asked = requested(&mut stream).await;
    for client in [&anybody, &stranger] {
        let refused = client.reply_permission(&asked["id"], json!({"decision": "allow_once"})).await;
        assert_eq!(refused.expect_err("no token").code, "permission_denied");
        let refused = client.update_session(json!({"permission_mode": "auto"})).await.expect_err("no token");
        assert_eq!(refused.code, "permission_denied");
        let refused =
            client.begin_turn(json!({"parts": [{"type": "text", "text": "x"}], "permission_mode": "auto"})).await;
        assert_eq!(refused.expect_err("no token").code, "permission_denied");
    }
    trusted.reply_permission(&asked["id"], json!({"decision": "deny"})).await.expect("it is taken");
    stream.rest().await;

    let session = anybody.get_session().await.expect("a session").body;
    assert_eq!(session["permission_mode"], "ask");
    let stricter = anybody.update_session(json!({"permission_mode": "read_only", "title": "Strict"})).await;
    let stricter = stricter.expect("tightening is free").body;
    assert_eq!((&stricter["permission_mode"], &stricter["title"]), (&json!("read_only"), &json!("Strict")));
    let refused = anybody.update_session(json!({"permission_mode": "ask"})).await.expect_err("that is looser");
    assert_eq!(refused.code, "permission_denied");

    // It stays so over a restart and a reset, which would be loosening otherwise.
    server.restart().await;
    let reset = server.through(door).reset_session(json!({})).await.expect("a session").body;
    assert_eq!(reset["permission_mode"], "read_only");
    let loose = server.trusted(door).update_session(json!({"permission_mode": "auto"})).await.expect("with the token");
    assert_eq!(loose.body["permission_mode"], "auto");
    let empty = server.through(door).update_session(json!({})).await.expect_err("nothing is named");
    assert_eq!(empty.code, "invalid_argument");
}

async fn a_mode_of_a_message_holds_for_its_turn(door: Door) {
    let answers = ["a", "b", "c"].iter().flat_map(|name| [vec![bash(&format!("touch {name}"))], vec![text("Done.")]]);
    let (setup, server, _model) = asking(answers.collect()).await;
    let wish = |mode: &str| json!({"parts": [{"type": "text", "text": "Go."}], "permission_mode": mode});
    let turn = server.through(door).begin_turn(wish("read_only")).await.expect("tightening is free").body;
    server.rest.ended_turn(&turn["id"]).await;
    assert!(!setup.workspace().join("a").exists());
    let turn = server.trusted(door).begin_turn(wish("auto")).await.expect("with the token").body;
    server.rest.ended_turn(&turn["id"]).await;
    assert!(setup.workspace().join("b").exists());
    assert!(!names(&server.rest.log().await).contains(&"permission_requested"));
    assert_eq!(server.through(door).get_session().await.expect("a session").body["permission_mode"], "ask");
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    requested(&mut stream).await;
}

/// A job that the agent was allowed to start calls the API by itself.
#[tokio::test]
async fn a_command_of_the_agents_cannot_answer() {
    let script = r#"
import json, os, urllib.request, urllib.error
base = open("base").read().strip()
def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"content-type": "application/json"}, method=method)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
waiting = []
while not waiting:
    waiting = json.load(urllib.request.urlopen(base + "/agent/permissions"))["permissions"]
said = [ask("POST", "/agent/permissions/" + waiting[0]["id"], {"decision": "allow_once"}),
        ask("PATCH", "/session", {"permission_mode": "auto"}), "OPENCODE_REPLY_TOKEN" in os.environ]
open("said.tmp", "w").write(json.dumps(said))
os.rename("said.tmp", "said")
"#;
    let job = json!({"command": "python3 answer.py", "background": true});
    let answers = [vec![crate::support::model::call("bash", &job), bash("touch a")], vec![text("Done.")]];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let setup = Setup::with(&model).asking();
    let workspace = setup.workspace();
    std::fs::write(workspace.join("answer.py"), script).expect("a file");
    let server = setup.start();
    std::fs::write(workspace.join("base"), &server.rest.base).expect("a file");
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let first = requested(&mut stream).await;
    let client = server.trusted(Door::Rest);
    client.reply_permission(&first["id"], json!({"decision": "allow_once"})).await.expect("it is taken");
    let second = requested(&mut stream).await;
    let said = until("what the job was told", async || std::fs::read_to_string(workspace.join("said")).ok()).await;
    assert_eq!(said, "[403, 403, false]");
    let list = client.list_permissions().await.expect("a list").body;
    assert_eq!(list["permissions"], json!([second]));
    assert!(!workspace.join("a").exists());
}

/// Made at the start, told once to who started it, and in no file.
#[tokio::test]
async fn a_token_is_made_and_told_once() {
    let server = Setup::new().env("OPENCODE_PERMISSION_MODE", "read_only").start();
    let line = until("the token", async || {
        server.log().lines().find_map(|line| line.strip_prefix("reply token: ").map(str::to_owned))
    });
    let token = line.await;
    assert_eq!((token.len(), server.log().matches(&token).count()), (64, 1));
    assert!(!server.data_holds(&token));
    let client = server.through(Door::Rest).with_token(&token);
    client.update_session(json!({"permission_mode": "ask"})).await.expect("with the token");
    let told = Setup::new().asking().start();
    told.rest.read("/session").await;
    assert!(!told.log().contains(TOKEN) && !told.log().contains("reply token"), "{}", told.log());
    let (code, said) = Setup::new().env("OPENCODE_REPLY_TOKEN", "too-short").fail_to_start();
    assert!(code == Some(1) && said.contains("at least 16"), "{said}");
    let (code, said) = Setup::new().env("OPENCODE_REPLY_TOKEN", "long enough but of words").fail_to_start();
    assert_eq!(code, Some(1));
    assert!(said.contains("OPENCODE_REPLY_TOKEN"), "{said}");
}
