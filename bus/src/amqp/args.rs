//! The flags of every program that speaks to a broker.

use std::{fmt, path::PathBuf};

use super::{AmqpBus, AmqpConfig, ClientIdentity, ConfigError};

/// How to reach a broker, as flags and environment variables.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AmqpArgs {
    /// RabbitMQ, as amqps://user:password@host:5671/vhost, or amqp:// on this machine; better in the environment
    /// than in the process list [default: none]
    #[arg(long, env = "CLONE8S_AMQP", hide_env_values = true, value_name = "URL")]
    pub amqp: Option<AmqpUrl>,

    /// Root CA (PEM) that RabbitMQ's certificate is verified against; amqps needs it
    #[arg(long, env = "CLONE8S_AMQP_CA", requires = "amqp", value_name = "FILE")]
    pub amqp_ca: Option<PathBuf>,

    /// Client certificate (PEM), where RabbitMQ asks for one
    #[arg(long, env = "CLONE8S_AMQP_CERT", requires_all = ["amqp", "amqp_key"], value_name = "FILE")]
    pub amqp_cert: Option<PathBuf>,

    /// Key (PEM) of --amqp-cert
    #[arg(long, env = "CLONE8S_AMQP_KEY", requires = "amqp_cert", value_name = "FILE")]
    pub amqp_key: Option<PathBuf>,
}

impl AmqpArgs {
    /// How to reach the broker; None where none is given.
    pub fn config(&self) -> Option<AmqpConfig> {
        let AmqpUrl(url) = self.amqp.as_ref()?;
        let identity = self.amqp_cert.clone().zip(self.amqp_key.clone());
        Some(AmqpConfig {
            ca: self.amqp_ca.clone(),
            identity: identity.map(|(certificate, key)| ClientIdentity { certificate, key }),
            ..AmqpConfig::new(url)
        })
    }

    /// The bus of [`AmqpArgs::config`]; see [`AmqpBus::connect`].
    pub fn connect(&self) -> Result<Option<AmqpBus>, ConfigError> {
        self.config().as_ref().map(AmqpBus::connect).transpose()
    }
}

/// An AMQP address, whose password does not show. Anything is taken, because clap shows the values that it refuses;
/// [`AmqpBus::connect`] refuses what is no address, without showing it.
#[derive(Clone)]
pub struct AmqpUrl(String);

impl From<&str> for AmqpUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AmqpUrl(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        amqp: AmqpArgs,
    }

    fn parse(flags: &[&str]) -> Result<AmqpArgs, clap::Error> {
        Program::try_parse_from([&["program"], flags].concat()).map(|program| program.amqp)
    }

    #[test]
    fn without_a_url_there_is_no_broker_and_no_certificate_for_it() {
        assert!(parse(&[]).unwrap().config().is_none());
        parse(&["--amqp-ca", "ca.pem"]).unwrap_err();
    }

    #[test]
    fn a_certificate_and_its_key_come_together() {
        let url = ["--amqp", "amqps://b", "--amqp-ca", "ca.pem"];
        parse(&[&url[..], &["--amqp-cert", "c.pem"]].concat()).unwrap_err();
        parse(&[&url[..], &["--amqp-key", "k.pem"]].concat()).unwrap_err();
        let both = parse(&[&url[..], &["--amqp-cert", "c.pem", "--amqp-key", "k.pem"]].concat()).unwrap();
        let config = both.config().unwrap();
        assert_eq!(config.url, "amqps://b");
        assert_eq!(config.ca, Some("ca.pem".into()));
        let identity = config.identity.unwrap();
        assert_eq!(
            (identity.certificate, identity.key),
            ("c.pem".into(), "k.pem".into())
        );
    }

    #[test]
    fn neither_help_nor_errors_nor_debug_show_a_password() {
        let args = parse(&["--amqp", "http://user:hunter2@b"]).unwrap();
        let error = args.connect().unwrap_err();
        let unknown = parse(&["--amqp", "amqp://user:hunter2@b", "--nonsense"]).unwrap_err();
        let shown = format!("{args:?} {error} {unknown} {unknown:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
