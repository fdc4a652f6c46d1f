//! How containerd calls a shim: Go's flags, and then one word.

use std::path::PathBuf;

/// Parsed by hand: this program starts once or twice for every container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) namespace: String,
    /// Of the container, or for the server of its pod.
    pub(crate) id: String,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    /// The container's folder, where it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print the address of the pod's server, which is started if need be.
    Start,
    /// Clear away a container whose server is gone.
    Delete,
    /// Be the pod's server on the socket that is the standard input.
    Serve {
        /// The socket's path.
        socket: PathBuf,
    },
    /// Print what this shim is, for containerd 2.
    Info,
    #[default]
    Version,
}

impl Args {
    /// Whether a program was called as containerd calls shims.
    pub(crate) fn are_a_shims(words: &[String]) -> bool {
        words.first().is_some_and(|first| {
            [
                "-namespace",
                "-id",
                "-info",
                "-debug",
                "-address",
                "-publish-binary",
                "-bundle",
                "-socket",
            ]
            .iter()
            .any(|flag| first == flag || first.starts_with(&format!("{flag}=")))
        })
    }

    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut args = Self::default();
        let mut socket = PathBuf::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else {
                args.command = match word.as_str() {
                    "start" => Command::Start,
                    "delete" => Command::Delete,
                    "serve" => Command::Serve { socket },
                    other => {
                        return Err(format!(
                            "unknown command {other:?}: must be start, delete or serve"
                        ));
                    }
                };
                break;
            };
            let flag = flag.trim_start_matches('-');
            match flag {
                "debug" => continue,
                "v" | "version" => break,
                "info" => {
                    args.command = Command::Info;
                    break;
                }
                _ => {}
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (
                    flag,
                    words
                        .next()
                        .cloned()
                        .ok_or_else(|| format!("flag -{flag} needs a value"))?,
                ),
            };
            match name {
                "namespace" => args.namespace = value,
                "id" => args.id = value,
                "address" => args.address = value,
                "bundle" => args.bundle = Some(value.into()),
                "socket" => socket = value.into(),
                // Newer ones are of no use here, and must not keep a container from starting.
                _ => {}
            }
        }
        let needs_id = matches!(
            args.command,
            Command::Start | Command::Delete | Command::Serve { .. }
        );
        if needs_id && (args.id.is_empty() || args.namespace.is_empty()) {
            return Err("flags -namespace and -id are needed: this program is started by containerd".into());
        }
        if args.id.contains('/') || args.id == ".." {
            return Err(format!("id {:?} is not a file's name", args.id));
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_containerd_passes_is_understood() {
        let args =
            parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1 start")
                .unwrap();
        assert_eq!(args.namespace, "k8s.io");
        assert_eq!(args.address, "/run/c.sock");
        assert_eq!((args.id.as_str(), args.command), ("c1", Command::Start));
        let args = parse("-namespace=a -debug -id=b -bundle /b -new-flag x delete").unwrap();
        assert_eq!((args.bundle, args.command), (Some("/b".into()), Command::Delete));
        assert_eq!(parse("-v").unwrap().command, Command::Version);
    }

    #[test]
    fn an_id_that_leaves_its_folder_is_refused() {
        assert!(parse("-namespace a -id ../b start").is_err());
        assert!(parse("-namespace a start").is_err());
        assert!(parse("-namespace a -id b stop").unwrap_err().contains("stop"));
    }

    #[test]
    fn a_shims_call_differs_from_a_persons() {
        let is = |words: &[&str]| {
            Args::are_a_shims(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        };
        assert!(is(&["-namespace", "x", "start"]));
        assert!(is(&["-namespace=x"]));
        assert!(!is(&["--namespace", "x"]) && !is(&["serve"]) && !is(&[]));
    }
}
