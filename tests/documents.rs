//! What the documents say exists: commands, recipes, links.

use std::path::Path;

use clap::Parser;
use tests::{files, read, root};

/// What says how to use the programs, and how they are built.
fn documents() -> Vec<String> {
    let mut found = files("md");
    found.retain(|path| {
        path == "README.md" || path == "ARCHITECTURE.md" || path.starts_with("docs/")
    });
    found
}

/// Lines of a document's shell blocks, continued lines joined, comments cut off.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut command = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            // Also those that `tests/docs/run.py` does not run, which say why.
            inside = line == "```sh" || line.starts_with("```sh ");
        } else if inside {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if let Some(start) = line.strip_suffix('\\') {
                command.push_str(start);
            } else {
                command.push_str(line);
                found.push(std::mem::take(&mut command));
            }
        }
    }
    found
}

/// Arguments of a program in a command, be it run through cargo or by name.
fn arguments<'a>(command: &'a str, program: &str) -> Option<Vec<&'a str>> {
    let through_cargo = format!("cargo run --bin {program} -- ");
    let by_name = format!("{program} ");
    let rest = command
        .strip_prefix(&through_cargo)
        .or_else(|| command.strip_prefix(&by_name))?;
    let mut words = vec![&command[..0]];
    // In the background.
    let rest = rest.strip_suffix('&').unwrap_or(rest);
    words.extend(rest.split_whitespace());
    Some(words)
}

#[test]
fn the_two_commands_are_on_the_front_page() {
    let commands = commands(&read("README.md"));
    for command in [
        "cargo run --bin scansided -- demo --exit",
        "cargo test --workspace",
    ] {
        let count = commands.iter().filter(|found| *found == command).count();
        assert_eq!(
            count, 1,
            "README.md has to show `{command}` in a sh block, once"
        );
    }
}

#[test]
fn commands_of_the_documents_are_understood() {
    let (mut n_daemon, mut n_trainer) = (0, 0);
    for document in documents() {
        for command in commands(&read(&document)) {
            if let Some(words) = arguments(&command, "scansided") {
                n_daemon += 1;
                if let Err(error) = daemon::cli::Cli::try_parse_from(words) {
                    panic!("{document}: `{command}`: {error}");
                }
            } else if let Some(words) = arguments(&command, "trainer") {
                n_trainer += 1;
                if let Err(error) = trainer::cli::Cli::try_parse_from(words) {
                    panic!("{document}: `{command}`: {error}");
                }
            } else if command.starts_with("cargo run") {
                panic!("{document}: `{command}`: the programs are scansided and trainer");
            }
        }
    }
    assert!(
        n_daemon >= 3 && n_trainer >= 5,
        "{n_daemon} and {n_trainer} commands found: the search is broken"
    );
}

#[test]
fn recipes_of_just_exist() {
    let justfile = read("justfile");
    for document in documents() {
        for command in commands(&read(&document)) {
            let Some(recipe) = command
                .strip_prefix("just ")
                .and_then(|rest| rest.split(' ').next())
            else {
                continue;
            };
            let defined = justfile.lines().any(|line| {
                let name = line.split([':', ' ']).next().unwrap_or_default();
                !line.starts_with([' ', '#']) && line.contains(':') && name == recipe
            });
            assert!(
                defined,
                "{document}: `{command}`: justfile has no recipe `{recipe}`"
            );
        }
    }
}

#[test]
fn configuration_files_exist_and_are_understood() {
    for document in documents().into_iter().chain(["justfile".to_owned()]) {
        for word in read(&document).split(|c: char| c.is_whitespace() || "`()\"'|,".contains(c)) {
            let named = word.starts_with("config/")
                && !word.contains('*')
                && Path::new(word).extension().is_some();
            assert!(
                !named || root().join(word).exists(),
                "{document} names {word}, which does not exist"
            );
        }
    }
    for path in files("toml")
        .iter()
        .filter(|path| path.starts_with("config/"))
    {
        let file = root().join(path);
        let problem = if path == "config/daemon.toml" {
            daemon::Config::read(&file)
                .err()
                .map(|error| error.to_string())
        } else {
            let resolved = trainer::config::Config::resolve(Some(&file), &[]);
            resolved.err().map(|error| format!("{error:#}"))
        };
        assert_eq!(
            problem, None,
            "{path} is refused by the program that reads it"
        );
    }
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for document in files("md") {
        let folder = root().join(&document);
        let folder = folder.parent().expect("a file lies in a folder");
        for target in read(&document)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || path.is_empty();
            if !elsewhere && !folder.join(path).exists() {
                findings.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "these links lead nowhere:\n{}",
        findings.join("\n")
    );
}

#[test]
fn commands_are_found_in_shell_blocks_only() {
    let text = "cargo a\n```sh\ncargo b \\\n  --c   # d\n\n```\n```toml\ncargo e\n```\n";
    assert_eq!(commands(text), ["cargo b --c", ""]);
}
