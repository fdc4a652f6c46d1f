//! Where a registry's images are asked for: containerd's `certs.d/<host>/hosts.toml`.
//!
//! ```text
//! certs.d/<host>_<port>_/  ─┐
//! certs.d/<host>:<port>/   ─┼─► the first folder that is there ─► mirrors in the file's order, then the server
//! certs.d/_default/        ─┘
//! ```
//!
//! Read for every pull: a change counts from the next one on.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use toml::{Table, Value};

use super::super::{ImageError, Result, name::DEFAULT_REGISTRY};

const FILE: &str = "hosts.toml";
/// Larger files are neither configuration nor certificates.
const MAX_FILE: u64 = 4 << 20;
/// Where docker.io's images are.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// With the path to the API, such as `https://registry.example.com/v2`.
    pub(super) base: Url,
    pub(super) capabilities: Capabilities,
    pub(super) tls: TlsSettings,
    /// Sent with every request, and to nobody else.
    pub(super) headers: HeaderMap,
    /// Not the registry of the image's name: it is told which one it stands in for.
    pub(super) is_mirror: bool,
}

/// What a place may be asked for (pushing is none of a runtime's business).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pull: bool,
    pub(super) resolve: bool,
}

/// How a place shows who it is, and how we do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct TlsSettings {
    /// PEM, besides the system's.
    pub(super) authorities: Vec<Vec<u8>>,
    /// PEM: a certificate with its key.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) skip_verify: bool,
}

impl Host {
    /// The host of the address, with its port where that is not the scheme's.
    pub(super) fn name(&self) -> String {
        authority(&self.base)
    }

    /// Nobody on the way can listen.
    pub(super) fn is_private(&self) -> bool {
        self.base.scheme() == "https" || self.base.host_str().is_some_and(is_loopback)
    }
}

pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The places to ask for a registry's images, in order.
pub(super) fn load(dir: &Path, registry: &str, plain_http: bool) -> Result<Vec<Host>> {
    let upstream = upstream(registry, plain_http).map_err(|problem| ImageError::Hosts {
        path: dir.to_owned(),
        problem,
    })?;
    let Some(dir) = folder(dir, registry) else {
        return Ok(vec![Host::plain(upstream)]);
    };
    let path = dir.join(FILE);
    let problem = |problem: String| ImageError::Hosts {
        path: path.clone(),
        problem,
    };
    let Some(text) = read_small(&path, MAX_FILE).map_err(|error| problem(error.to_string()))? else {
        // Certificates alone, as docker has them.
        let mut host = Host::plain(upstream);
        host.tls = certificates_of(&dir).map_err(problem)?;
        return Ok(vec![host]);
    };
    let text = String::from_utf8(text).map_err(|_| problem("is not UTF-8".to_owned()))?;
    parse(&text, &dir, registry, &upstream).map_err(problem)
}

/// `hosts.toml`, whose own relative paths start from `dir`.
fn parse(text: &str, dir: &Path, registry: &str, upstream: &Url) -> Result<Vec<Host>, String> {
    let mut root: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut hosts = Vec::new();
    match root.remove("host") {
        None => {}
        Some(Value::Table(tables)) => {
            for (address, table) in tables {
                // With a password in it, it is not repeated.
                let shown = address.rsplit('@').next().unwrap_or_default();
                let place = format!("host.{shown:?}");
                let Value::Table(table) = table else {
                    return Err(format!("{place}: must be a table"));
                };
                let host = parse_host(Some(&address), table, dir, registry, upstream);
                hosts.push(host.map_err(|problem| format!("{place}: {problem}"))?);
            }
        }
        Some(_) => return Err("host: must be tables, such as [host.\"https://mirror.example.com\"]".into()),
    }
    let server = match root.remove("server") {
        None => None,
        Some(Value::String(server)) => Some(server).filter(|server| !server.is_empty()),
        Some(_) => return Err("server: must be an address, such as \"https://registry.example.com\"".into()),
    };
    hosts.push(parse_host(server.as_deref(), root, dir, registry, upstream)?);
    Ok(hosts)
}

fn parse_host(
    address: Option<&str>,
    mut table: Table,
    dir: &Path,
    registry: &str,
    upstream: &Url,
) -> Result<Host, String> {
    let override_path = flag(&mut table, "override_path")?;
    let base = match address {
        Some(address) => base(address, override_path)?,
        None => upstream.clone(),
    };
    let host = Host {
        is_mirror: is_mirror(&base, registry, upstream),
        capabilities: capabilities(table.remove("capabilities"))?,
        tls: TlsSettings {
            authorities: authorities(table.remove("ca"), dir)?,
            identity: identity(table.remove("client"), dir)?,
            skip_verify: flag(&mut table, "skip_verify")?,
        },
        headers: headers(table.remove("header"))?,
        base,
    };
    for key in table.keys() {
        // Newer versions of containerd know more; none of it may stop a pull.
        tracing::debug!(registry, key, "passed over an unknown key of hosts.toml");
    }
    Ok(host)
}

impl Host {
    fn plain(base: Url) -> Self {
        Self {
            base,
            capabilities: Capabilities {
                pull: true,
                resolve: true,
            },
            tls: TlsSettings::default(),
            headers: HeaderMap::new(),
            is_mirror: false,
        }
    }
}

fn base(address: &str, override_path: bool) -> Result<Url, String> {
    let whole = if address.contains("://") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let mut url = Url::parse(&whole).map_err(|error| format!("{address:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{address:?}: must be http:// or https:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and password in its address; put them into the credentials".into());
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") {
        path
    } else {
        format!("{path}/v2")
    };
    url.set_path(&path);
    Ok(url)
}

/// The registry itself.
fn upstream(registry: &str, plain_http: bool) -> Result<Url, String> {
    let address = match registry {
        DEFAULT_REGISTRY => DOCKER_HUB.to_owned(),
        other if plain_http || is_loopback(host_of(other)) => format!("http://{other}"),
        other => format!("https://{other}"),
    };
    base(&address, false)
}

fn is_mirror(base: &Url, registry: &str, upstream: &Url) -> bool {
    authority(base) != registry && authority(base) != authority(upstream)
}

fn host_of(registry: &str) -> &str {
    match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    }
}

/// A host that does not leave this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The first of the folders that a registry may have.
fn folder(root: &Path, registry: &str) -> Option<PathBuf> {
    let with_port = registry
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()))
        .map(|(host, port)| format!("{host}_{port}_"));
    with_port
        .into_iter()
        .chain([registry.to_owned(), "_default".to_owned()])
        .map(|name| root.join(name))
        .find(|path| path.is_dir())
}

fn capabilities(value: Option<Value>) -> Result<Capabilities, String> {
    let names = match value {
        None => Vec::new(),
        Some(Value::Array(names)) => names,
        Some(_) => return Err("capabilities: must be a list, such as [\"pull\", \"resolve\"]".into()),
    };
    if names.is_empty() {
        return Ok(Capabilities {
            pull: true,
            resolve: true,
        });
    }
    let mut found = Capabilities {
        pull: false,
        resolve: false,
    };
    for name in names {
        match name.as_str() {
            Some("pull") => found.pull = true,
            Some("resolve") => found.resolve = true,
            Some("push") => {}
            _ => return Err(format!("capabilities: {name:?}: must be pull, resolve or push")),
        }
    }
    Ok(found)
}

fn flag(table: &mut Table, name: &str) -> Result<bool, String> {
    match table.remove(name) {
        None => Ok(false),
        Some(Value::Boolean(value)) => Ok(value),
        Some(_) => Err(format!("{name}: must be true or false")),
    }
}

fn authorities(value: Option<Value>, dir: &Path) -> Result<Vec<Vec<u8>>, String> {
    let must = "ca: must be a path or a list of paths";
    let paths = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(paths)) => paths,
        Some(path) => vec![path],
    };
    paths
        .iter()
        .map(|path| read_pem(dir, path.as_str().ok_or(must)?))
        .collect()
}

/// A path of both in one file, or pairs of paths; the first pair is used, as a connection takes one.
fn identity(value: Option<Value>, dir: &Path) -> Result<Option<Vec<u8>>, String> {
    let must = "client: must be a path, a list of paths, or a list of pairs of paths (certificate, key)";
    let first = match value {
        None => return Ok(None),
        Some(Value::Array(mut values)) if !values.is_empty() => values.swap_remove(0),
        Some(other) => other,
    };
    let paths = match first {
        Value::String(path) => vec![path],
        Value::Array(pair) if (1..=2).contains(&pair.len()) => pair
            .iter()
            .map(|path| path.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or(must)?,
        _ => return Err(must.into()),
    };
    let mut pem = Vec::new();
    for path in paths.iter().filter(|path| !path.is_empty()) {
        pem.extend(read_pem(dir, path)?);
        pem.push(b'\n');
    }
    Ok(Some(pem))
}

fn headers(value: Option<Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let table = match value {
        None => return Ok(headers),
        Some(Value::Table(table)) => table,
        Some(_) => return Err("header: must be a table".into()),
    };
    for (name, value) in table {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        let name =
            HeaderName::try_from(&name).map_err(|_| format!("header {name:?}: is no header's name"))?;
        for value in values {
            let mut value = value
                .as_str()
                .and_then(|value| HeaderValue::try_from(value).ok())
                .ok_or_else(|| format!("header {name}: must be text on one line, or a list of such"))?;
            // It may be a password.
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn read_pem(dir: &Path, path: &str) -> Result<Vec<u8>, String> {
    let path = dir.join(path);
    match read_small(&path, MAX_FILE) {
        Ok(Some(pem)) => Ok(pem),
        Ok(None) => Err(format!("{}: is not there", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// docker's way: `*.crt` are authorities, `*.cert` and `*.key` of one name the client's pair.
fn certificates_of(dir: &Path) -> Result<TlsSettings, String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut tls = TlsSettings::default();
    for name in &names {
        if Path::new(name).extension().is_some_and(|ending| ending == "crt") {
            tls.authorities.push(read_pem(dir, name)?);
        } else if let Some(stem) = name.strip_suffix(".cert")
            && tls.identity.is_none()
        {
            let pair = Value::Array(vec![Value::Array(vec![
                Value::from(name.as_str()),
                Value::from(format!("{stem}.key")),
            ])]);
            tls.identity = identity(Some(pair), dir)?;
        }
    }
    Ok(tls)
}

/// A file's bytes; none when it is not there.
pub(super) fn read_small(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
