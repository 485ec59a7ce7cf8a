//! The user's own repository, which is only read, and what happens to it and to git's settings meanwhile.

use std::{fs, process::Command};

use serde_json::json;

use crate::{
    baselines::{plain, put},
    support::{
        Door, Setup,
        repo::{bytes_of, git, said},
    },
};

#[tokio::test]
async fn the_users_repository_stays_as_it_is_to_the_byte() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "a/b.txt", "b\n");
    put(&workspace, ".gitignore", "*.log\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "More"]);
    git(&workspace, &["gc", "-q"]);
    put(&workspace, "loose.txt", "loose\n");
    git(&workspace, &["add", "loose.txt"]);
    git(&workspace, &["commit", "-qm", "Loose"]);
    let before = bytes_of(&workspace.join(".git"));
    let mut server = setup.env("OPENCODE_MODEL", "mock/demo").start();
    let first = server.version().await;
    // Contents that the repository has already, and others.
    put(&workspace, "copy.txt", "loose\n");
    put(&workspace, "README.md", "# Other\n");
    fs::remove_file(workspace.join("a/b.txt")).expect("a file");
    for query in ["", "?since_version=git:HEAD", "?since_version=git:HEAD~1&renames=true", "?since_version=git:nothing"]
    {
        server.rest.get(&format!("/files/changes{query}")).await;
    }
    server.through(Door::Rest).get_patch(json!({"since_version": "git:HEAD~2"})).await.expect("a patch");
    server.rest.ask("Hello.").await;
    server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    server.rest.post("/session/reset", &json!({})).await.ok();
    server.version().await;
    server.restart().await;
    server.version().await;
    let after = bytes_of(&workspace.join(".git"));
    for (path, what) in &before {
        assert!(after.get(path) == Some(what), "{}", path.display());
    }
    assert_eq!(after.len(), before.len());
}

/// What the user's git throws away is not missed by versions that had it.
#[tokio::test]
async fn a_history_that_is_rewritten_takes_no_version_along() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    put(&workspace, "deep/a.txt", "only here\n");
    put(&workspace, "b.txt", "1\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "First"]);
    let server = setup.start();
    let first = server.version().await;
    put(&workspace, "deep/a.txt", "2\n");
    git(&workspace, &["commit", "-qa", "--amend", "-m", "Rewritten"]);
    git(&workspace, &["reflog", "expire", "--expire=now", "--all"]);
    git(&workspace, &["gc", "-q", "--prune=now"]);
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    assert_eq!(body["changes"][0]["path"], "deep/a.txt", "{body}");
    assert_eq!(body["changes"].as_array().map(Vec::len), Some(1));
    // Its tree is ours; its content was not.
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["skipped"], json!([{"path": "deep/a.txt", "reason": "gone"}]));
    assert_eq!(fs::read(workspace.join("deep/a.txt")).expect("a file"), b"2\n");
}

/// Settings of whoever runs the server change no answer.
#[tokio::test]
async fn nobodys_settings_change_a_patch() {
    let setup = plain();
    put(
        &setup.folder("home"),
        ".gitconfig",
        "[diff]\n\tnoprefix = true\n\tcontext = 0\n[core]\n\tattributesFile = ~/attributes\n",
    );
    put(&setup.folder("home"), "attributes", "*.md binary\n");
    put(&setup.folder("home"), ".config/git/attributes", "*.md -diff\n");
    let mut server = setup.start();
    let since = server.version().await;
    put(&setup.workspace(), "README.md", "# A project\nmore\n");
    let patch = server.through(Door::Rest).get_patch(json!({"since_version": since})).await.expect("a patch");
    let patch = String::from_utf8(patch).expect("UTF-8");
    assert!(patch.starts_with("diff --git a/README.md b/README.md\n") && patch.ends_with("+more\n"), "{patch}");
    // Nor does what is no setting at all, or a data directory that was somebody else's, take a version away.
    put(&setup.folder("home"), ".gitconfig", "[broken");
    server.restart().await;
    said(Command::new("chown").args(["-R", "12345:12345"]).arg(setup.data_dir()));
    server.restart().await;
    let done = server.rest.post("/files/revert", &json!({"version": since})).await.ok();
    assert_eq!(done["skipped"], json!([]), "{done}");
    assert_eq!(fs::read(setup.workspace().join("README.md")).expect("a file"), b"# A project\n");
}
