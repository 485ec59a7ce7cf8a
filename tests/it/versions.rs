//! Versions of the workspace through every door: their list, the changes between them, the errors.

use std::fs;

use serde_json::json;

use crate::{
    support::{Door, Server, Setup, Value},
    through_every_door,
};

through_every_door! {
    versions_are_listed_and_their_changes_told;
    pages_of_changes_joined_are_the_whole;
    an_unchanged_answer_is_not_told_again;
    bad_questions_are_refused_by_name;
    what_a_patch_would_lack_is_said;
    revisions_of_git_are_versions_to_start_from;
}

fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn list<'a>(body: &'a Value, name: &str) -> &'a Vec<Value> {
    body[name].as_array().expect("a list")
}

async fn versions_are_listed_and_their_changes_told(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "before.txt", "there before\n");
    let reply = client.get_file_changes(json!({})).await.expect("changes");
    let baseline = reply.body["since_version"].clone();
    put(&server, "README.md", "# A project\nwith more\n");
    put(&server, "new/file.txt", "new\n");
    put(&server, "new/empty", "");
    put(&server, "new/binary", b"\0\xff");
    fs::remove_file(server.workspace().join("before.txt")).expect("a file");
    let reply =
        client.get_file_changes(json!({"since_version": reply.body["current_version"]})).await.expect("changes");
    assert!(reply.cursor.is_some());
    let body = reply.body;
    assert_eq!((&body["complete"], &body["left_out"]), (&json!(true), &json!([])), "{body}");
    assert_eq!(body.get("until_version"), None);
    let names: Vec<_> = list(&body, "changes").iter().map(|it| (it["path"].clone(), it["type"].clone())).collect();
    let expected = [
        ("README.md", "modified"),
        ("before.txt", "deleted"),
        ("new/binary", "created"),
        ("new/empty", "created"),
        ("new/file.txt", "created"),
    ];
    assert_eq!(names, expected.map(|(path, kind)| (json!(path), json!(kind))));
    let changes = list(&body, "changes");
    let readme = &changes[0];
    assert_eq!(readme["old_content"], "# A project\n");
    assert_eq!(readme["new_content"], "# A project\nwith more\n");
    assert!(
        readme["diff"].as_str().is_some_and(|diff| diff.ends_with("@@ -1 +1,2 @@\n # A project\n+with more\n")),
        "{readme}"
    );
    assert_eq!(
        (&readme["additions"], &readme["deletions"], &readme["is_binary"]),
        (&json!(1), &json!(0), &json!(false))
    );
    assert_eq!((&readme["old_size"], &readme["new_size"]), (&json!(12), &json!(22)));
    assert_eq!((&readme["old_mode"], &readme["new_mode"]), (&json!(0o100_644), &json!(0o100_644)));
    assert_eq!((&readme["origin"]["by"], &readme["origin"]["version"]), (&json!("outside"), &body["current_version"]));
    assert_eq!(readme["timestamp"], readme["origin"]["at"]);
    assert_eq!((&changes[1]["deletions"], changes[1].get("new_mode")), (&json!(1), None));
    assert_eq!((&changes[2]["is_binary"], changes[2].get("additions")), (&json!(true), None));
    assert_eq!((changes[3].get("new_content"), &changes[3]["new_size"]), (changes[3].get("old_content"), &json!(0)));

    // Only below a path; with lines around it; between two versions.
    let below = client.get_file_changes(json!({"path": "new", "since_version": baseline})).await.expect("changes").body;
    assert_eq!(list(&below, "changes").len(), 3);
    let one = client.get_file_changes(json!({"path": "README.md", "context": 0})).await.expect("changes").body;
    assert!(
        one["changes"][0]["diff"].as_str().is_some_and(|diff| diff.ends_with("@@ -1,0 +2 @@\n+with more\n")),
        "{one}"
    );
    let none = client.get_file_changes(json!({"path": "ne"})).await.expect("changes").body;
    assert_eq!(list(&none, "changes").len(), 0, "a name is whole");
    let until = body["current_version"].clone();
    put(&server, "later.txt", "");
    let between = json!({"since_version": baseline, "until_version": until});
    let between = client.get_file_changes(between).await.expect("changes").body;
    assert_eq!(between["until_version"], until);
    assert!(list(&between, "changes").iter().all(|change| change["path"] != "later.txt"));
    let back = json!({"since_version": until, "until_version": baseline, "path": "new/file.txt"});
    let back = client.get_file_changes(back).await.expect("changes").body;
    assert_eq!(back["changes"][0]["type"], "deleted");

    // The list has them newest first, with what they differ by.
    client.get_file_changes(json!({})).await.expect("changes");
    let versions = client.list_versions(json!({})).await.expect("versions");
    assert!(versions.cursor.is_some());
    let all = list(&versions.body, "versions").clone();
    let ids: Vec<u64> =
        all.iter().map(|it| it["id"].as_str().expect("an id")[1..].parse().expect("a number")).collect();
    assert!(ids.is_sorted_by(|one, other| one > other), "{ids:?}");
    assert_eq!(versions.body["pagination"]["total"], all.len());
    let first = all.last().expect("one");
    assert_eq!((&first["cause"], &first["id"], &first["partial"]), (&json!("baseline"), &baseline, &json!(false)));
    assert_eq!((&all[0]["files_changed"], all[0]["cause"] == "baseline"), (&json!(1), false));
    let page = client.list_versions(json!({"limit": 1})).await.expect("versions").body;
    assert_eq!((&page["versions"][0], &page["pagination"]["has_more"]), (&all[0], &json!(true)));
    let next = json!({"limit": 1, "cursor": page["pagination"]["next_cursor"]});
    assert_eq!(client.list_versions(next).await.expect("versions").body["versions"][0], all[1]);

    // And back: dry, whole, and once more.
    let wish = json!({"version": baseline, "paths": ["README.md", "new"], "dry_run": true});
    let dry = client.revert_files(wish).await.expect("an answer").body;
    assert_eq!(list(&dry, "changes").len(), 4, "{dry}");
    assert_eq!((dry.get("version_before"), dry.get("version_after")), (None, None));
    assert!(server.workspace().join("new/file.txt").exists());
    let done =
        client.revert_files(json!({"version": baseline, "paths": ["README.md", "new"]})).await.expect("an answer").body;
    assert_eq!((&done["changes"], &done["skipped"]), (&dry["changes"], &json!([])));
    assert!(!server.workspace().join("new").exists());
    assert_eq!(fs::read(server.workspace().join("README.md")).expect("a file"), b"# A project\n");
    let again = client.revert_files(json!({"version": done["version_before"]})).await.expect("an answer").body;
    assert_eq!(again["changes"].as_array().map(Vec::len), Some(4));
    assert_eq!(fs::read(server.workspace().join("new/binary")).expect("a file"), b"\0\xff");
    let newest = &client.list_versions(json!({"limit": 1})).await.expect("versions").body["versions"][0];
    assert_eq!((&newest["cause"], &newest["id"]), (&json!("revert"), &again["version_after"]));
}

async fn pages_of_changes_joined_are_the_whole(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let since = server.version().await;
    for number in 0..37 {
        put(&server, &format!("f{}/{number}", number % 3), format!("{number}\n"));
    }
    put(&server, "f1.x", "between f1 and f1/");
    let whole = client.changes_since(&since).await;
    assert_eq!(whole.len(), 38);
    let (mut joined, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut query = json!({"since_version": since, "limit": 5});
        if !cursor.is_null() {
            query["cursor"] = cursor;
        }
        let page = client.get_file_changes(query).await.expect("changes").body;
        assert_eq!(page["pagination"]["total"], 38);
        joined.extend(list(&page, "changes").clone());
        cursor = page["pagination"]["next_cursor"].clone();
        assert_eq!(page["pagination"]["has_more"], !cursor.is_null());
        if cursor.is_null() {
            break;
        }
        assert_eq!(list(&page, "changes").len(), 5);
    }
    assert_eq!(joined, whole);
}

async fn an_unchanged_answer_is_not_told_again(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "a.txt", "one\n");
    let first = client.get_file_changes(json!({})).await.expect("changes").body;
    let tag = first["etag"].as_str().expect("a tag").to_owned();
    for known in
        [tag.clone(), format!("\"{tag}\""), format!("W/\"{tag}\""), format!("\"other\", \"{tag}\""), "*".into()]
    {
        let reply = client.get_file_changes(json!({"if_none_match": known})).await.expect("an answer");
        assert_eq!(reply.body, json!({"etag": tag, "not_modified": true}), "{known}");
        assert!(reply.cursor.is_some());
    }
    // Another question and another state are other answers.
    let other = client.get_file_changes(json!({"if_none_match": tag, "context": 1})).await.expect("changes").body;
    assert!(other.get("not_modified").is_none());
    put(&server, "a.txt", "two\n");
    let later = client.get_file_changes(json!({"if_none_match": tag})).await.expect("changes").body;
    assert!(later.get("not_modified").is_none() && later["etag"] != tag.as_str());
}

async fn bad_questions_are_refused_by_name(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    server.version().await;
    let bad = |field: &'static str, query: Value| ("invalid_argument", vec![field], query);
    let unknown = |query: Value| ("not_found", vec![], query);
    for (code, fields, query) in [
        unknown(json!({"since_version": "v999"})),
        unknown(json!({"since_version": "v0"})),
        unknown(json!({"since_version": "v9223372036854775808"})),
        unknown(json!({"until_version": "v999"})),
        unknown(json!({"since_version": "git:nothing"})),
        unknown(json!({"since_version": "git:"})),
        unknown(json!({"since_version": "git:HEAD~9"})),
        unknown(json!({"since_version": "git:../../outside"})),
        unknown(json!({"since_version": "git:HEAD^{/x}"})),
        unknown(json!({"turn_id": "turn_nothing"})),
        bad("since_version", json!({"since_version": "garbage"})),
        bad("since_version", json!({"since_version": "v"})),
        bad("since_version", json!({"since_version": "v-1"})),
        bad("since_version", json!({"since_version": "v+1"})),
        bad("since_version", json!({"since_version": "v99999999999999999999999"})),
        bad("until_version", json!({"until_version": "git:HEAD"})),
        bad("turn_id", json!({"turn_id": "turn_1", "since_version": "v1"})),
        bad("turn_id", json!({"turn_id": "turn_1", "until_version": "v1"})),
        bad("context", json!({"context": -1})),
        bad("context", json!({"context": 1001})),
        bad("limit", json!({"limit": 201})),
        bad("limit", json!({"limit": -1})),
        bad("cursor", json!({"cursor": "garbage"})),
        bad("cursor", json!({"cursor": "v-1"})),
        ("permission_denied", vec!["path"], json!({"path": "../outside"})),
        ("permission_denied", vec!["path"], json!({"path": "/etc"})),
    ] {
        let refused = client.get_file_changes(query.clone()).await.expect_err("a bad question");
        assert_eq!(
            (refused.code.as_str(), refused.fields.clone()),
            (code, fields.iter().map(|it| (*it).to_owned()).collect()),
            "{query} {refused:?}"
        );
    }
    for (code, fields, query) in [
        bad("limit", json!({"limit": -1})),
        bad("limit", json!({"limit": 1000})),
        bad("cursor", json!({"cursor": "f-YQ"})),
    ] {
        let refused = client.list_versions(query.clone()).await.expect_err("a bad question");
        assert_eq!(
            (refused.code.as_str(), refused.fields.clone()),
            (code, fields.iter().map(|it| (*it).to_owned()).collect()),
            "{query} {refused:?}"
        );
    }
    for (code, fields, wish) in [
        unknown(json!({"version": "v999"})),
        bad("version", json!({"version": ""})),
        bad("version", json!({"version": "git:HEAD"})),
        bad("paths", json!({"version": "v1", "paths": vec!["a"; 1001]})),
        ("permission_denied", vec!["path"], json!({"version": "v1", "paths": ["../outside"]})),
        ("precondition_failed", vec![], json!({"version": "v1", "expected_version": "v77"})),
    ] {
        let refused = client.revert_files(wish.clone()).await.expect_err("a bad wish");
        assert_eq!(
            (refused.code.as_str(), refused.fields.clone()),
            (code, fields.iter().map(|it| (*it).to_owned()).collect()),
            "{wish} {refused:?}"
        );
        if code == "precondition_failed" {
            assert!(refused.detail.contains("is at v1,"), "{refused:?}");
        }
    }
}

async fn what_a_patch_would_lack_is_said(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let since = server.version().await;
    put(&server, "small.txt", "small\n");
    // More than is stored, and holes to spare the disk.
    let large = fs::File::create(server.workspace().join("large.bin")).expect("a file");
    large.set_len(11 * 1024 * 1024).expect("a size");
    let body = client.get_file_changes(json!({"since_version": since})).await.expect("changes").body;
    assert_eq!(body["complete"], false);
    let change = &body["changes"][0];
    assert_eq!((&change["path"], &change["truncated"]), (&json!("large.bin"), &json!(true)));
    assert_eq!((&change["new_size"], change.get("diff")), (&json!(11 * 1024 * 1024), None));
    let refused = client.get_patch(json!({"since_version": since})).await.expect_err("it lacks something");
    assert_eq!(refused.code, "patch_incomplete");
    assert!(refused.detail.contains("large.bin (too_large)"), "{refused:?}");
    let patch = client.get_patch(json!({"since_version": since, "partial": true})).await.expect("a patch");
    assert!(patch.starts_with(b"diff --git a/small.txt b/small.txt\n") && !patch.windows(5).any(|it| it == b"large"));
    let patch = client.get_patch(json!({"since_version": since, "path": "small.txt"})).await.expect("a patch");
    assert!(patch.ends_with(b"+small\n"));
}

async fn revisions_of_git_are_versions_to_start_from(door: Door) {
    use crate::support::repo::git;
    let setup = Setup::new();
    let workspace = setup.workspace();
    fs::write(workspace.join("second.txt"), "2\n").expect("a file");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "Second"]);
    git(&workspace, &["tag", "light", "HEAD~1"]);
    git(&workspace, &["tag", "-a", "heavy", "-m", "A tag", "HEAD~1"]);
    git(&workspace, &["branch", "feature/one", "HEAD~1"]);
    let server = setup.start();
    let client = server.through(door);
    let id = String::from_utf8(git(&workspace, &["rev-parse", "HEAD~1"])).expect("an id");
    let short = &id[..9];
    let check = async |packed: bool| {
        for name in ["HEAD~1", "HEAD^", "light", "heavy", "feature/one", "refs/heads/feature/one", id.trim(), short] {
            let query = json!({"since_version": format!("git:{name}")});
            let body =
                client.get_file_changes(query).await.unwrap_or_else(|refused| panic!("{name}: {refused:?}")).body;
            assert_eq!(body["since_version"], format!("git:{name}"));
            assert_eq!(list(&body, "changes").len(), 1, "{name} {packed}: {body}");
            assert_eq!(
                (&body["changes"][0]["path"], &body["changes"][0]["type"]),
                (&json!("second.txt"), &json!("created"))
            );
        }
        let head = client.get_file_changes(json!({"since_version": "git:HEAD"})).await.expect("changes").body;
        assert_eq!(list(&head, "changes").len(), 0);
    };
    check(false).await;
    git(&workspace, &["gc", "-q"]);
    git(&workspace, &["pack-refs", "--all"]);
    check(true).await;
}
