//! The list of commands that only read: what on it is free in every mode. Flags that write or run something, and paths
//! outside of the workspace, take a command off it; so does every word that is only known when it runs.

use std::path::{Component, Path, PathBuf};

use super::{
    shell::{Line, Part},
    word::Word,
};

/// Where a command line would run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Where commands run now.
    pub(crate) directory: PathBuf,
    /// Whether the workspace is a git repository, and not one that files of it could pretend to be.
    pub(crate) is_git: bool,
}

/// Only say or compute something; what they are told does not matter.
const HARMLESS: [&str; 10] =
    ["echo", "true", "false", ":", "sleep", "basename", "dirname", "exit", "break", "continue"];
/// Read nothing but names, or nothing at all; their words have to be known.
const QUIET: [&str; 10] = ["pwd", "whoami", "id", "uname", "nproc", "arch", "uptime", "which", "type", "tr"];
/// Read the files that they are told.
const READING: [&str; 21] = [
    "cat", "head", "tail", "ls", "stat", "realpath", "readlink", "cut", "nl", "tac", "rev", "fold", "column", "comm",
    "cmp", "od", "df", "expand", "paste", "join", "base64",
];
/// Subcommands of git that read, whatever their words, but for these flags.
const GIT_READING: [&str; 18] = [
    "status",
    "log",
    "diff",
    "show",
    "blame",
    "describe",
    "rev-parse",
    "ls-files",
    "ls-tree",
    "shortlog",
    "rev-list",
    "merge-base",
    "name-rev",
    "cat-file",
    "grep",
    "count-objects",
    "show-ref",
    "version",
];
const GIT_FLAGS: [&str; 10] = [
    "--help",
    "--output",
    "--ext-diff",
    "--textconv",
    "--filters",
    "--open-files-in-pager",
    "--show-signature",
    "--exec",
    "--upload-pack",
    "--contents",
];
/// What lists branches and tags, and nothing else.
const GIT_LISTING: [&str; 14] = [
    "-a",
    "-r",
    "-v",
    "-vv",
    "-l",
    "--all",
    "--remotes",
    "--list",
    "--show-current",
    "--verbose",
    "--merged",
    "--no-merged",
    "--no-color",
    "--no-column",
];

/// Whether a part of a line is on the list.
pub(crate) fn is_listed(part: &Part, line: &Line, place: &Place) -> bool {
    if !part.assignments.is_empty() {
        return false;
    }
    let here = Here { place, moves: line.moves };
    let words = part.words.get(1..).unwrap_or_default();
    let Some(name) = part.name() else { return false };
    if part.is_redirection {
        return here.redirects(name, words);
    }
    if part.is_wrapper {
        return true;
    }
    if HARMLESS.contains(&name) {
        // Names that are put in for a pattern are names of files.
        return words.iter().filter(|word| word.is_glob).all(|word| here.holds(&word.text) && !word.is_home);
    }
    // From here on what a word is matters.
    if words.iter().any(|word| !word.is_known) || !place.directory.starts_with(&place.root) {
        return false;
    }
    match name {
        _ if QUIET.contains(&name) => true,
        // Its programs have modules, which lie anywhere, and may come from a file.
        "jq" => {
            let loads = |word: &Word| ["import", "include", "<("].iter().any(|part| word.text.contains(part));
            lacks(words, "fL", &["--from-file", "--library-path", "--run-tests"])
                && !words.iter().any(loads)
                && here.reads(words)
        }
        "wc" | "du" => lacks(words, "", &["--files0-from"]) && here.reads(words),
        "md5sum" | "sha1sum" | "sha256sum" | "sha512sum" | "b2sum" | "cksum" => {
            lacks(words, "c", &["--check"]) && here.reads(words)
        }
        "hexdump" => lacks(words, "f", &["--format-file"]) && here.reads(words),
        // It takes more words out of such a file.
        "strings" => !words.iter().any(|word| word.text.starts_with('@') || word.is_glob) && here.reads(words),
        _ if READING.contains(&name) => here.reads(words),
        "printf" => words.first().and_then(Word::literal).is_some_and(prints),
        "test" => !words.iter().any(|word| ["-v", "-R"].contains(&word.text.as_str()) || word.is_glob),
        "printenv" | "env" | "hostname" => words.is_empty(),
        "set" => words.iter().all(|word| sets_harmless(&word.text)),
        "command" => words.len() == 2 && ["-v", "-V"].contains(&words[0].text.as_str()),
        "cd" => words.len() == 1 && words[0].literal().is_some_and(|text| !text.starts_with('-') && here.holds(text)),
        "date" => is_date(words),
        "sort" => {
            let long = ["--output", "--compress-program", "--temporary-directory", "--files0-from"];
            lacks(words, "oT", &long) && here.reads(words)
        }
        "uniq" => {
            // The second one is written.
            let is_file = |word: &&Word| !word.text.starts_with('-') || word.text == "-";
            let is_sure = |word: &Word| !word.is_glob && word.text != "--";
            words.iter().filter(is_file).count() <= 1 && words.iter().all(is_sure) && here.reads(words)
        }
        "file" => {
            let long = ["--compile", "--magic-file", "--uncompress", "--files-from"];
            lacks(words, "CmzZf", &long) && here.reads(words)
        }
        "tree" => lacks(words, "oR", &["--fromfile"]) && here.reads(words),
        "diff" => lacks(words, "l", &["--paginate"]) && here.reads(words),
        "grep" | "egrep" | "fgrep" => here.reads(behind_pattern(words).as_slice()),
        "rg" => {
            lacks(words, "z", &["--pre", "--pre-glob", "--hostname-bin", "--search-zip"])
                && here.reads(behind_pattern(words).as_slice())
        }
        "find" => finds(words) && here.reads(words),
        "sed" => here.prints_lines(words),
        "git" => here.git(words),
        _ => false,
    }
}

struct Here<'a> {
    place: &'a Place,
    moves: bool,
}

impl Here<'_> {
    /// Whether a path leads to something inside of the workspace. Links in it are not followed.
    fn holds(&self, text: &str) -> bool {
        let (path, Place { root, directory, .. }) = (Path::new(text), self.place);
        let climbs = path.components().any(|part| part == Component::ParentDir);
        match (path.is_absolute(), climbs) {
            (true, true) => false,
            (true, false) => path.starts_with(root) || text == "/dev/null",
            (false, false) => true,
            (false, true) if self.moves => false,
            (false, true) => {
                let mut place = directory.clone();
                for part in path.components() {
                    match part {
                        Component::ParentDir => drop(place.pop()),
                        Component::Normal(name) => place.push(name),
                        Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                    }
                    if !place.starts_with(root) {
                        return false;
                    }
                }
                true
            }
        }
    }

    fn reads(&self, words: &[Word]) -> bool {
        words.iter().all(|word| {
            let text = word.text.as_str();
            // A pattern such as `.*` may find `..` too.
            let climbs = |part: &str| matches!(part.as_bytes(), [b'.', b'*' | b'?' | b'[', ..]);
            let leads_out = word.is_home || word.is_glob && text.split('/').any(climbs);
            !leads_out
                && match (text.strip_prefix('-'), text.split_once('=')) {
                    (None, _) => self.holds(text),
                    (Some(_), Some((flag, value))) => {
                        self.holds(value) && !value.starts_with('~') && !flag.contains('/')
                    }
                    (Some(flag), None) => !flag.contains('/'),
                }
        })
    }

    fn redirects(&self, operator: &str, words: &[Word]) -> bool {
        let target = words.first();
        match (operator, target.and_then(Word::literal)) {
            (">&-" | "<&-", None) => target.is_none(),
            (">&" | "<&", Some(text)) => text == "-" || text.bytes().all(|byte| byte.is_ascii_digit()),
            (_, Some("/dev/null")) => true,
            ("<", Some(text)) => self.holds(text),
            (_, _) => false,
        }
    }

    /// `sed -n 3,20p`: sed has commands that write files and run programs.
    fn prints_lines(&self, words: &[Word]) -> bool {
        let [flag, script, files @ ..] = words else { return false };
        let is_range = |text: &str| {
            let lines = text.strip_suffix('p').unwrap_or_default();
            !lines.is_empty() && lines.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '$')
        };
        flag.text == "-n"
            && script.literal().is_some_and(is_range)
            && files.iter().all(|file| !file.text.starts_with('-') && !may_be_flag(file))
            && self.reads(files)
    }

    /// A repository's settings can name programs that git runs: only the workspace's own is trusted, whose `.git` no file
    /// tool writes.
    fn git(&self, words: &[Word]) -> bool {
        let is_own = self.place.is_git && !self.moves && self.place.directory == self.place.root;
        let globals = words.iter().take_while(|word| ["--no-pager", "-P"].contains(&word.text.as_str())).count();
        let words = words.get(globals..).unwrap_or_default();
        let Some((subcommand, words)) = words.split_first() else { return false };
        let is_listing = |words: &[Word]| words.iter().all(|word| GIT_LISTING.contains(&word.text.as_str()));
        let first = words.first().map(|word| word.text.as_str());
        is_own
            && match subcommand.text.as_str() {
                name if GIT_READING.contains(&name) => {
                    // A signature is looked at by another program.
                    lacks(words, "O", &GIT_FLAGS)
                        && !words.iter().any(|word| word.text.contains("%G"))
                        && self.reads(words)
                }
                "branch" | "tag" => is_listing(words),
                "remote" => matches!((first, words.len()), (None, _) | (Some("-v"), 1) | (Some("get-url"), 2)),
                "stash" | "worktree" => matches!((first, words.len()), (Some("list"), 1)),
                "reflog" => matches!((first, words.len()), (None, _) | (Some("show"), 1)),
                _ => false,
            }
    }
}

/// Whether names that are put in for a pattern could be taken for flags.
fn may_be_flag(word: &Word) -> bool {
    word.is_glob && word.text.starts_with(['*', '?', '[', '-'])
}

/// Whether words have none of these flags; long ones may be shortened. Of short ones several may stand behind one dash.
fn lacks(words: &[Word], short: &str, long: &[&str]) -> bool {
    words.iter().all(|word| {
        let flag = word.text.split('=').next().unwrap_or_default();
        let is_bad = match (flag.strip_prefix("--"), flag.strip_prefix('-')) {
            (Some(""), _) => false,
            (Some(_), _) => long.iter().any(|bad| bad.starts_with(flag) || flag.starts_with(bad)),
            (None, Some(letters)) => letters.chars().any(|letter| short.contains(letter)),
            (None, None) => false,
        };
        !is_bad && !may_be_flag(word)
    })
}

/// The words without the pattern that is searched for, which is no path.
fn behind_pattern(words: &[Word]) -> Vec<Word> {
    let names_it = words.iter().any(|word| {
        let flag = word.text.split('=').next().unwrap_or_default();
        match (flag.strip_prefix("--"), flag.strip_prefix('-')) {
            // Behind `--` all is a pattern or a path; where files or types are listed there is no pattern, and behind a
            // flag with a path the first word is that.
            (Some(_), _) => {
                let long = ["--regexp", "--file", "--files", "--type-list", "--exclude-from", "--ignore-file"];
                flag != "--exclude" && long.iter().any(|long| long.starts_with(flag))
            }
            (None, Some(letters)) => letters.is_empty() || letters.contains(['e', 'f']),
            (None, None) => may_be_flag(word),
        }
    });
    // One that is a pattern of names, too, may be more words.
    let is_one = |at: &usize| words[*at].literal().is_some();
    let pattern = words.iter().position(|word| !word.text.starts_with('-')).filter(|_| !names_it).filter(is_one);
    let kept = words.iter().enumerate().filter(|(at, _)| Some(*at) != pattern);
    kept.map(|(_, word)| word.clone()).collect()
}

/// Whether a format of printf only prints: `%n` sets a variable, and a flag would be taken for one.
fn prints(format: &str) -> bool {
    let sets = |rest: &str| {
        rest.trim_start_matches(|c: char| !c.is_ascii_alphabetic() || "hlLjzt".contains(c)).starts_with('n')
    };
    !format.starts_with('-') && !format.split('%').skip(1).any(sets)
}

fn finds(words: &[Word]) -> bool {
    let bad = ["-exec", "-ok", "-delete", "-fprint", "-fls", "-files0"];
    words.iter().all(|word| !bad.iter().any(|bad| word.text.starts_with(bad)) && !may_be_flag(word))
}

/// Shows a time and does not set it.
fn is_date(words: &[Word]) -> bool {
    let mut is_value = false;
    words.iter().all(|word| {
        let text = word.text.as_str();
        let is_good = match (is_value, text.as_bytes()) {
            (true, _) => !text.starts_with('/'),
            (false, [b'+', ..]) => true,
            (false, [b'-', b'-', rest @ ..]) => {
                !rest.starts_with(b"s")
                    && !rest.starts_with(b"f")
                    && (!rest.starts_with(b"r") || rest.starts_with(b"rfc"))
            }
            (false, [b'-', b'I', ..]) => true,
            (false, [b'-', rest @ ..]) => !rest.iter().any(|letter| b"sfr".contains(letter)),
            (false, _) => false,
        };
        is_value = !is_value && matches!(text, "-d" | "--date");
        is_good && !word.is_glob
    })
}

fn sets_harmless(text: &str) -> bool {
    let is_flags = |flags: &str| !flags.is_empty() && flags.chars().all(|flag| "euxo".contains(flag));
    text == "pipefail" || text.strip_prefix(['-', '+']).is_some_and(is_flags)
}
