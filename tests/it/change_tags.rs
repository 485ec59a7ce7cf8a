//! The tag of what changed: an answer that is not told again is the one that the client has.

use std::{fs, path::Path, time::SystemTime};

use serde_json::json;

use crate::{
    baselines::put,
    support::{
        Dialect, Door, Gate, Model, Server, Setup, Step, Value,
        client::Answer,
        model::{bash, text},
        repo::{command, git},
    },
};

crate::through_every_door! {
    a_tag_knows_where_a_revision_of_git_is;
    a_tag_knows_what_git_takes_for_unchanged;
}

/// What changed since a revision, with its tag.
struct Asking<'a> {
    server: &'a Server,
    door: Door,
    since: &'a str,
}

impl Asking<'_> {
    async fn ask(&self, tag: Option<&Value>) -> Value {
        let mut query = json!({"since_version": self.since});
        if let Some(tag) = tag {
            query["if_none_match"] = tag.clone();
        }
        self.server.through(self.door).get_file_changes(query).await.expect("changes").body
    }

    /// The answer to who has another: it has to be told, and to have a tag of its own.
    async fn other_than(&self, known: &Value) -> Value {
        let body = self.ask(Some(&known["etag"])).await;
        assert_eq!(body.get("not_modified"), None, "{} after {known}", self.since);
        assert_ne!((&body["changes"], &body["etag"]), (&known["changes"], &known["etag"]));
        assert_ne!(body["etag"], known["etag"]);
        body
    }

    /// The answer is still that one.
    async fn still(&self, known: &Value) {
        let body = self.ask(Some(&known["etag"])).await;
        assert_eq!(body, json!({"etag": known["etag"], "not_modified": true}), "{}", self.since);
        assert_eq!(self.ask(None).await["changes"], known["changes"]);
    }
}

fn paths(body: &Value) -> Vec<&str> {
    body["changes"].as_array().expect("a list").iter().map(|it| it["path"].as_str().expect("a path")).collect()
}

async fn a_tag_knows_where_a_revision_of_git_is(door: Door) {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "second.txt", "2\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Second"]);
    git(&workspace, &["branch", "side"]);
    let server = setup.start();
    for since in ["git:HEAD", "git:side", "git:refs/heads/side"] {
        let asking = Asking { server: &server, door, since };
        let name = since.trim_start_matches("git:");
        let name = if name == "side" { "refs/heads/side" } else { name };
        let here = asking.ask(None).await;
        assert_eq!(paths(&here), [""; 0]);
        let tip = String::from_utf8(git(&workspace, &["rev-parse", name])).expect("an id");
        let second = String::from_utf8(git(&workspace, &["rev-parse", ":/Second"])).expect("an id");
        git(&workspace, &["update-ref", name, &format!("{}~1", second.trim())]);
        let there = asking.other_than(&here).await;
        assert_eq!(paths(&there), ["second.txt"]);
        git(&workspace, &["update-ref", name, tip.trim()]);
        assert_eq!(asking.other_than(&there).await["changes"], here["changes"]);
        // Another commit of the same files is no other answer.
        let here = asking.ask(None).await;
        git(&workspace, &["commit", "-q", "--allow-empty", "-m", "Nothing"]);
        asking.still(&here).await;
    }
    // A tag of a revision that is gone is worth nothing.
    let asking = Asking { server: &server, door, since: "git:side" };
    let tag = asking.ask(None).await["etag"].clone();
    git(&workspace, &["branch", "-q", "-D", "side"]);
    let query = json!({"since_version": "git:side", "if_none_match": tag});
    let refused = server.through(door).get_file_changes(query).await.expect_err("it is gone");
    assert_eq!(refused.code, "not_found");
}

/// Files whose content in git is another than theirs, and modes that git has its own mind about.
async fn a_tag_knows_what_git_takes_for_unchanged(door: Door) {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, ".gitattributes", "*.crlf text eol=crlf\n");
    put(&workspace, "a.crlf", "one\r\ntwo\r\n");
    put(&workspace, "run.sh", "#!/bin/sh\n");
    // Older than the index, so that git itself believes it.
    let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    let touch = |time| {
        let file = fs::File::options().write(true).open(workspace.join("a.crlf")).expect("a file");
        file.set_modified(time).expect("a time");
    };
    touch(old);
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Attributes"]);
    let server = setup.start();
    let asking = Asking { server: &server, door, since: "git:HEAD" };
    let clean = asking.ask(None).await;
    assert_eq!(paths(&clean), [""; 0], "git sees no change");
    asking.still(&clean).await;
    // The files are what they were all the time from here on; what git knows of them is not.
    git(&workspace, &["update-index", "--force-remove", "a.crlf"]);
    let unknown = asking.other_than(&clean).await;
    assert_eq!(paths(&unknown), ["a.crlf"]);
    git(&workspace, &["add", "a.crlf"]);
    let known = asking.other_than(&unknown).await;
    assert_eq!(paths(&known), [""; 0]);
    touch(old + std::time::Duration::from_secs(1));
    let touched = asking.other_than(&known).await;
    assert_eq!(paths(&touched), ["a.crlf"]);
    git(&workspace, &["update-index", "--refresh"]);
    let known = asking.other_than(&touched).await;
    assert_eq!(paths(&known), [""; 0]);
    // A mode that is only in the index yet is a change since HEAD.
    executable(&workspace.join("run.sh"));
    let changed = asking.other_than(&known).await;
    assert_eq!(paths(&changed), ["run.sh"]);
    git(&workspace, &["add", "run.sh"]);
    assert_eq!(paths(&asking.ask(None).await), ["run.sh"]);
    // Also where git's content is not the file's.
    executable(&workspace.join("a.crlf"));
    git(&workspace, &["add", "a.crlf"]);
    assert_eq!(paths(&asking.ask(None).await), ["a.crlf", "run.sh"]);
    git(&workspace, &["commit", "-q", "-m", "Both", "a.crlf"]);
    assert_eq!(paths(&asking.ask(None).await), ["run.sh"]);
    // Where git does not look at modes it is none.
    git(&workspace, &["config", "core.fileMode", "false"]);
    git(&workspace, &["update-index", "--chmod=-x", "run.sh"]);
    git(&workspace, &["update-index", "--refresh"]);
    let status = command(&workspace).args(["status", "--porcelain"]).output().expect("git runs");
    assert_eq!(String::from_utf8_lossy(&status.stdout), "");
    let known = asking.other_than(&changed).await;
    assert_eq!(paths(&known), [""; 0]);
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[tokio::test]
async fn a_tag_knows_whether_anything_is_ignored() {
    let setup = Setup::new();
    put(&setup.workspace(), ".gitignore", "*.log\n");
    let server = setup.start();
    let client = server.through(Door::Rest);
    let all = client.get_file_changes(json!({})).await.expect("changes").body;
    assert_eq!(all["left_out"], json!([]));
    put(&server.workspace(), "x.log", "ignored\n");
    let less = client.get_file_changes(json!({"if_none_match": all["etag"]})).await.expect("changes").body;
    assert_eq!(less["left_out"], json!([{"path": ".", "reason": "ignored"}]), "{less}");
    assert_ne!(less["etag"], all["etag"]);
}

#[tokio::test]
async fn a_tag_of_what_a_turn_has_done_so_far_ends_with_its_version() {
    let gate = Gate::new();
    let answers = [vec![bash("echo 1 > made.txt")], vec![Step::Wait(gate.clone()), text("Done.")]];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let server = Setup::with(&model).start();
    server.version().await;
    let begun = server.rest.begin("Write.").await;
    model.asked(1).await;
    let first = server.rest.get("/files/changes").await;
    let tag = first.header("etag").expect("a tag").to_owned();
    assert_eq!(first.ok()["changes"][0]["origin"]["turn_id"], begun["id"]);
    let again = || Answer::of(server.rest.request("GET", "/files/changes").header("if-none-match", &tag));
    assert_eq!(again().await.status, 304);
    gate.open();
    let ended = server.rest.ended_turn(&begun["id"]).await;
    let body = again().await.ok();
    assert_eq!(body["changes"][0]["origin"]["version"], ended["version_after"], "{body}");
}
