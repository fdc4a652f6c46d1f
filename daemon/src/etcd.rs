//! What programs that speak to etcd have in common: their flags, and the form of what is kept there.

pub mod value;

use std::path::PathBuf;

/// How to reach an etcd cluster, as flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EtcdArgs {
    /// Endpoints of etcd, such as https://10.0.0.5:2379; may be given several times [default: none]
    #[arg(long, value_delimiter = ',', value_name = "URL,…")]
    pub etcd: Vec<String>,

    /// Root CA (PEM) that etcd's certificates are verified against; https needs it
    #[arg(long, requires = "etcd", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// Client certificate (PEM), where etcd asks for one
    #[arg(long, requires_all = ["etcd", "etcd_key"], value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,

    /// Key (PEM) of --etcd-cert
    #[arg(long, requires = "etcd_cert", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
}

impl EtcdArgs {
    /// The client certificate and its key, where they are given.
    pub fn identity(&self) -> Option<(PathBuf, PathBuf)> {
        self.etcd_cert.clone().zip(self.etcd_key.clone())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        etcd: EtcdArgs,
    }

    fn parse(flags: &[&str]) -> Result<EtcdArgs, clap::Error> {
        Program::try_parse_from([&["program"], flags].concat()).map(|program| program.etcd)
    }

    #[test]
    fn certificates_without_an_endpoint_are_refused() {
        assert!(parse(&[]).unwrap().etcd.is_empty());
        parse(&["--etcd-ca", "ca.pem"]).unwrap_err();
    }

    #[test]
    fn endpoints_come_in_one_flag_or_in_several() {
        let joined = parse(&["--etcd", "https://a:2379,https://b:2379"]).unwrap();
        let apart = parse(&["--etcd", "https://a:2379", "--etcd", "https://b:2379"]).unwrap();
        assert_eq!(joined.etcd, ["https://a:2379", "https://b:2379"]);
        assert_eq!(joined.etcd, apart.etcd);
    }

    #[test]
    fn a_certificate_and_its_key_come_together() {
        let etcd = ["--etcd", "https://a:2379"];
        parse(&[&etcd[..], &["--etcd-cert", "c.pem"]].concat()).unwrap_err();
        parse(&[&etcd[..], &["--etcd-key", "k.pem"]].concat()).unwrap_err();
        let both = parse(&[&etcd[..], &["--etcd-cert", "c.pem", "--etcd-key", "k.pem"]].concat()).unwrap();
        assert_eq!(both.identity(), Some(("c.pem".into(), "k.pem".into())));
    }
}
