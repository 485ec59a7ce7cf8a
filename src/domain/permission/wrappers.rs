//! Commands that run other commands, as far as their arguments tell.

use super::shell::Word;

/// What a command runs.
pub(super) enum Inner {
    /// A command of these words; more may follow that are not known.
    Command(Vec<Word>),
    /// A line of the shell.
    Line(String),
    /// Something that the line does not say, and why.
    Unknown(String),
}

/// Whether a command does nothing but run another one as it stands, and what it runs.
pub(super) fn inner(words: &[Word]) -> (bool, Vec<Inner>) {
    let name = words.first().and_then(Word::literal).unwrap_or_default();
    let arguments = words.get(1..).unwrap_or_default();
    match name.rsplit('/').next().unwrap_or(name) {
        "time" | "nohup" if is_command(arguments) => (name != "nohup", command(arguments)),
        "nice" => match arguments.first().and_then(Word::literal) {
            Some("-n") => (is_command(arguments.get(2..).unwrap_or_default()), command(after(arguments, 2))),
            Some(_) if is_command(arguments) => (true, command(arguments)),
            Some(_) | None => (false, behind_flags(arguments, &["-n"])),
        },
        "timeout" => match arguments.first().and_then(Word::literal) {
            Some(first) if is_duration(first) => (is_command(after(arguments, 1)), command(after(arguments, 1))),
            Some(_) | None => {
                let rest = skip_flags(arguments, &["-k", "-s", "--kill-after", "--signal"]);
                (false, rest.map_or_else(|| unknown(name), |rest| command(after(rest, 1))))
            }
        },
        "builtin" | "command" if is_command(arguments) => (true, command(arguments)),
        "command" if matches!(arguments.first().and_then(Word::literal), Some("-v" | "-V")) => (false, Vec::new()),
        "exec" | "command" => (false, behind_flags(arguments, &["-a"])),
        "env" => (false, env(arguments)),
        "sudo" | "doas" => (false, behind_flags(arguments, &["-u", "-g", "-h", "-p", "-C", "-T", "-r", "-t", "-D"])),
        "setsid" | "stdbuf" | "ionice" | "chrt" | "taskset" | "unshare" | "chroot" | "script" | "flock" | "strace"
        | "ltrace" | "gdb" | "watch" | "parallel" | "entr" | "ssh" | "su" | "runuser" | "setpriv" | "systemd-run"
        | "trap" | "source" | "." | "npx" | "busybox" | "toybox" | "rlwrap" | "unbuffer" | "expect" => {
            (false, behind_flags_or_unknown(name, arguments))
        }
        "xargs" => {
            let with_value = ["-I", "-n", "-P", "-L", "-d", "-s", "-a", "-E"];
            (false, behind_flags(arguments, &with_value))
        }
        "find" | "fd" | "fdfind" => (false, find(arguments)),
        "bash" | "sh" | "dash" | "zsh" | "ksh" | "ash" | "rbash" => (false, shell(name, arguments)),
        "eval" => {
            let texts: Option<Vec<&str>> = arguments.iter().map(Word::literal).collect();
            (false, texts.map_or_else(|| unknown(name), |texts| vec![Inner::Line(texts.join(" "))]))
        }
        _ => (false, Vec::new()),
    }
}

fn command(words: &[Word]) -> Vec<Inner> {
    if words.is_empty() { Vec::new() } else { vec![Inner::Command(words.to_vec())] }
}

fn after(words: &[Word], count: usize) -> &[Word] {
    words.get(count..).unwrap_or_default()
}

fn unknown(name: &str) -> Vec<Inner> {
    vec![Inner::Unknown(format!("what {name} runs is not known"))]
}

/// Whether the words begin with a command and not with a flag.
fn is_command(words: &[Word]) -> bool {
    words.first().is_some_and(|word| word.literal().is_none_or(|text| !text.starts_with('-')))
}

fn is_duration(text: &str) -> bool {
    let number = text.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or(text);
    !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// What follows the flags; none where a flag is not known.
fn skip_flags<'a>(words: &'a [Word], with_value: &[&str]) -> Option<&'a [Word]> {
    let mut rest = words;
    loop {
        let Some(first) = rest.first() else { return Some(rest) };
        let text = first.literal()?;
        match text {
            "--" => return Some(after(rest, 1)),
            flag if with_value.contains(&flag) => rest = after(rest, 2),
            flag if flag.starts_with('-') && flag.len() > 1 => rest = after(rest, 1),
            _ => return Some(rest),
        }
    }
}

fn behind_flags(words: &[Word], with_value: &[&str]) -> Vec<Inner> {
    skip_flags(words, with_value).map_or_else(|| unknown("it"), command)
}

/// Their flags are not known here: whichever of their words is the command.
fn behind_flags_or_unknown(name: &str, words: &[Word]) -> Vec<Inner> {
    let mut inners: Vec<Inner> = (0..words.len()).map(|from| Inner::Command(words[from..].to_vec())).take(8).collect();
    inners.extend(unknown(name));
    inners
}

fn env(words: &[Word]) -> Vec<Inner> {
    let Some(mut rest) = skip_flags(words, &["-u", "--unset", "-C", "--chdir"]) else { return unknown("env") };
    let splits = |word: &Word| word.text.starts_with("-S") || word.text.starts_with("--split-string");
    if words.iter().any(splits) {
        return unknown("env");
    }
    while rest.first().is_some_and(|word| word.text.contains('=')) {
        rest = after(rest, 1);
    }
    command(rest)
}

fn find(words: &[Word]) -> Vec<Inner> {
    let runs = |word: &&Word| {
        let flags = ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"];
        word.literal().is_none_or(|text| flags.contains(&text))
    };
    let begins = words.iter().enumerate().filter(|(_, word)| runs(word) && word.is_known && !word.is_glob);
    begins.flat_map(|(at, _)| command(after(words, at + 1))).collect()
}

fn shell(name: &str, words: &[Word]) -> Vec<Inner> {
    let Some(at) = words.iter().position(|word| {
        word.literal().is_some_and(|text| text.starts_with('-') && !text.starts_with("--") && text.contains('c'))
    }) else {
        // A script, or what comes in by a pipe.
        return unknown(name);
    };
    match after(words, at + 1).iter().find(|word| word.literal().is_none_or(|text| !text.starts_with(['-', '+']))) {
        Some(line) => match line.literal() {
            Some(text) => vec![Inner::Line(text.to_owned())],
            None => unknown(name),
        },
        None => unknown(name),
    }
}
