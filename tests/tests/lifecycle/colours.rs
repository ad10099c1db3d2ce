//! `--color`, NO_COLOR, TERM and pipes mean the same for every command that has colours.

use std::{process::Command, time::Duration};

use jit_tests::{
    agent::{CLIENT, Site},
    programs::binary,
    terminal::Terminal,
};

use crate::sessions::wait_until;

/// The commands, and a word of what each prints.
const COMMANDS: [(&str, &str); 9] = [
    ("jit-agent status", "ENFORCING"),
    ("jit-agent grants", "REQUESTER"),
    ("jit-agent why 198.51.100.2 22", "OPEN"),
    ("jit-agent denials", "SOURCE"),
    ("jit-agent audit show", "agent_started"),
    ("jit-agent audit follow", "agent_started"),
    ("jit-agent audit verify", "GOOD"),
    ("jitctl status", "ENFORCING"),
    ("jitctl list", "REQUESTER"),
];

/// A command line without the variables that say something about colours.
fn command(site: &Site, line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = match words.next().unwrap() {
        "jitctl" => {
            let mut command = Command::new(binary("jitctl"));
            command.arg("--socket").arg(site.path("run/agent.sock")).args(words);
            command
        }
        _ => site.command(&words.collect::<Vec<_>>()),
    };
    command.env_remove("NO_COLOR").env("TERM", "xterm-256color").env("PAGER", "cat");
    command
}

#[test]
fn colours_mean_the_same_for_every_command() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, Duration::from_secs(600));
    assert!(!site.stranger_opens(0, 22));
    let denials = || site.run(&["denials"]).stdout;
    wait_until(|| String::from_utf8_lossy(&denials()).contains("SOURCE"));
    // In a pipe only `always` colours.
    for (line, word) in COMMANDS.into_iter().filter(|(line, _)| !line.ends_with("follow")) {
        for (option, expected) in [("", false), ("auto", false), ("never", false), ("always", true)]
        {
            let mut command = command(&site, line);
            if !option.is_empty() {
                command.args(["--color", option]);
            }
            // What was asked for by an option counts more than the variables.
            command.env("NO_COLOR", "1").env("TERM", "dumb");
            let output = site.host.run(|| command.output().unwrap());
            let text = String::from_utf8(output.stdout).unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains(word), "{line}: {text}{errors}");
            assert_eq!(text.contains('\x1b'), expected, "{line} --color {option}: {text:?}");
        }
    }
    // On a terminal `auto` colours, unless a variable speaks against it.
    for (line, word) in COMMANDS {
        for (option, variable, expected) in [
            ("auto", None, true),
            ("never", None, false),
            ("auto", Some(("NO_COLOR", "1")), false),
            ("auto", Some(("NO_COLOR", "")), true),
            ("auto", Some(("TERM", "dumb")), false),
        ] {
            let mut command = command(&site, line);
            command.args(["--color", option]);
            if let Some((name, value)) = variable {
                command.env(name, value);
            }
            let terminal = Terminal::start(&site.host, &command, 120, 40);
            terminal.wait_for(|screen| screen.contains(word));
            let coloured = terminal.is_coloured();
            assert_eq!(coloured, expected, "{line} --color {option}, {variable:?}");
        }
    }
}
