//! Turns the raw configuration into a [`Config`], and reports every error on the way.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::uri::Authority;
use url::Url;
use zeroize::Zeroizing;

use super::database::{DatabaseConfig, is_postgres_url};
use super::expand::Context;
use super::log_filter;
use super::mistakes::{ConfigErrors, Diagnostics, SourceLocation, WithLocation};
use super::own_address::OwnAddress;
use super::raw::{Audience, Raw, Variables};
use super::section::{Section, TomlFile};
use super::types::{AuthTiming, Base, Config, LogConfig, LogFormat, SecretPlaces};
use super::{
    cli, defaults as d, endpoints, mcp_json_entries, memory_limit, process, records, servers, tls, traces,
    webhooks,
};
use crate::sections::AuthMode;
use crate::sections::MetricsAccess;
use crate::sections::RetentionPolicy;
use crate::sections::TraceConfig as Tracing;
use crate::sections::{BridgeConfig, CatalogConfig, HttpConfig, LimitsConfig, SessionConfig, StreamsConfig};
use crate::server::ServingPolicy;

/// Validates the raw configuration. Continues after every error and returns all of them.
pub(super) fn resolve(raw: &Raw<'_>, report: Diagnostics) -> Result<Config, ConfigErrors> {
    let toml = raw.toml.as_ref().and_then(|file| TomlFile::parse(file.path.clone(), &file.text, &report));
    let root = Section::root(toml.as_ref(), &report);
    let entries = raw.mcp_json.as_ref().map_or_else(Vec::new, |file| {
        mcp_json_entries::parse(&file.path.display().to_string(), &file.text, &report)
    });
    let auth = root.child("auth");
    let auth_mode = auth_mode(raw, &auth);
    let auth_timing = auth_timing(&auth);
    auth.finish();
    let server = server(raw, &root, auth_mode.as_ref(), &report);
    let limits = limits(&root);
    let catalog = catalog(&root);
    let retention = retention(&root);
    let session = session(&root, &report);
    let bridge = bridge(&root);
    let log = log(raw, &root, &report);
    let context = Context { variables: &raw.variables, report: &report, workspace: None };
    let (metrics_access, traces) = telemetry(&root, context);
    let records = records::read(&root, &raw.data_dir, context);
    let webhooks = webhooks::read(&root, context);
    let workspace = raw.mcp_json.as_ref().and_then(|file| workspace_of(&file.path));
    // A gateway for one client listens on no port.
    let listen = (raw.audience == Audience::Network).then_some(server.listen);
    let own = OwnAddress::new(listen, &server.hosts, raw.mcp_json.as_ref().map(|file| &*file.path));
    let servers = servers::read(&root, &entries, own, Context { workspace, ..context });
    let serving_policy = serving_policy(&root, &server, servers.inherited.clone(), &report);
    let endpoints = endpoints::read(&root, &servers, &report);
    root.finish();
    let base = base(Some(raw.data_dir.clone()), &raw.variables, &report);
    let Base { database, encryption_key, jwt_secret, secret_places, .. } = base;
    let jwt_secret = jwt_secret.zip(secret_places.jwt_secret.as_ref());
    let jwt_secret = jwt_secret.map(|(text, place)| self::jwt_secret(&text, place, &report));
    let notices = report.finish()?;
    let files = raw.toml.iter().chain(&raw.mcp_json);
    Ok(Config {
        data_dir: raw.data_dir.clone(),
        server,
        servers: servers.ready,
        endpoints,
        fallback_server: None,
        serving_policy,
        catalog,
        retention,
        session,
        bridge,
        limits,
        auth_mode: auth_mode.map_or(AuthMode::Keys, |written| written.value),
        auth_timing,
        encryption_key,
        jwt_secret,
        secret_places,
        log,
        metrics_access,
        traces,
        records,
        webhooks,
        database,
        sources: files.map(|file| &file.path).chain(&raw.variables.path).cloned().collect(),
        candidates: raw.candidates.clone(),
        missing: raw.missing.clone(),
        loaded_at: raw.loaded_at,
        notices,
    })
}

/// The folder of `mcp.json`, or the one above if it is in a folder of an editor's own settings.
fn workspace_of(mcp_json: &Path) -> Option<&Path> {
    let folder = mcp_json.parent()?;
    let is_editors = [".vscode", ".cursor"].iter().any(|name| folder.ends_with(name));
    if is_editors { folder.parent() } else { Some(folder) }
}

/// Reads from the environment what is needed to open the store.
pub(super) fn base(data_dir: Option<PathBuf>, variables: &Variables<'_>, report: &Diagnostics) -> Base {
    let is_shared_database = variables.text("METAMCP_SHARED_DATABASE", report).is_some_and(|written| {
        written.value.parse().unwrap_or_else(|_| {
            report.mistake(&written.place, "is neither true nor false");
            false
        })
    });
    let database = variables.text("DATABASE_URL", report).map(|WithLocation { value, place }| {
        if !is_postgres_url(&value) {
            report.mistake(&place, "is not postgres://...; leave it out to use SQLite in the data directory");
        }
        DatabaseConfig { url: Zeroizing::new(value), place, is_shared: is_shared_database }
    });
    let secret = |name| {
        let written = variables.text(name, report);
        written.map(|WithLocation { value, place }| (Zeroizing::new(value), place)).unzip()
    };
    let (encryption_key, encryption_key_place) = secret("ENCRYPTION_KEY");
    let (jwt_secret, jwt_secret_place) = secret("JWT_SECRET");
    let secret_places = SecretPlaces { encryption_key: encryption_key_place, jwt_secret: jwt_secret_place };
    Base { data_dir, database, is_shared_database, encryption_key, jwt_secret, secret_places }
}

fn jwt_secret(text: &str, place: &SourceLocation, report: &Diagnostics) -> Zeroizing<Vec<u8>> {
    if text.len() < d::JWT_SECRET_BYTES_MIN {
        let least = d::JWT_SECRET_BYTES_MIN;
        report.mistake(
            place,
            format!("is shorter than {least} bytes; take the output of: openssl rand -base64 32"),
        );
    }
    Zeroizing::new(text.as_bytes().to_vec())
}

/// The authentication mode with its location, if it was set. The flag can only switch authentication off.
fn auth_mode(raw: &Raw<'_>, section: &Section<'_>) -> Option<WithLocation<AuthMode>> {
    let written = section.text("mode").map(|written| written.place);
    let mode = section.word("mode", &[("keys", AuthMode::Keys), ("none", AuthMode::Open)], AuthMode::Keys);
    if raw.flags.no_auth {
        return Some(WithLocation { value: AuthMode::Open, place: SourceLocation::flag("--no-auth") });
    }
    written.map(|place| WithLocation { value: mode, place })
}

fn auth_timing(section: &Section<'_>) -> AuthTiming {
    AuthTiming {
        token_lifetime: section.duration("token_lifetime", d::TOKEN_LIFETIME),
        hash_permits: section.count("hash_permits", d::HASH_PERMITS.with_default((cores() / 2).max(1))),
        hash_queue_max: section.count("hash_queue_max", d::HASH_QUEUE),
        verified_for: section.duration("verified_for", d::VERIFIED_FOR),
    }
}

fn server(
    raw: &Raw<'_>,
    root: &Section<'_>,
    mode: Option<&WithLocation<AuthMode>>,
    report: &Diagnostics,
) -> HttpConfig {
    let section = root.child("server");
    let listen = listen(raw, &section, report);
    let has_address = raw.audience == Audience::Network;
    if let Some(WithLocation { value: AuthMode::Open, place }) = mode
        && has_address
        && !listen.ip().to_canonical().is_loopback()
    {
        report.mistake(
            place,
            format!("asks nobody for a key, but {} is not loopback; write --host 127.0.0.1", listen.ip()),
        );
    }
    // Read also where TLS has no effect, so that no key of it is unknown.
    let ignored = Diagnostics::default();
    let tls = tls::read(&section, if has_address { report } else { &ignored });
    let config = HttpConfig {
        listen,
        workers: workers(raw, &section, report),
        tls: tls.filter(|_| has_address),
        header_timeout: section.duration("header_timeout", d::HEADER_TIMEOUT),
        body_timeout: section.duration("body_timeout", d::BODY_TIMEOUT),
        idle_timeout: section.duration("idle_timeout", d::IDLE_TIMEOUT),
        body_bytes_max: section.size("body_bytes_max", d::BODY_BYTES),
        header_bytes_max: section.size("header_bytes_max", d::HEADER_BYTES),
        header_count_max: section.count("header_count_max", d::HEADER_COUNT),
        connections_max: section.count("connections_max", d::CONNECTIONS),
        origins: list(&section, "origins", origin, report),
        hosts: list(&section, "hosts", host_name, report),
        drain_delay: section.duration("drain_delay", d::DRAIN_DELAY),
        drain_deadline: section.duration("drain_deadline", d::DRAIN_DEADLINE),
        handover_deadline: section.duration("handover_deadline", d::HANDOVER_DEADLINE),
        keep_alive: section.duration("keep_alive", d::KEEP_ALIVE),
        fast_lane: section.flag("fast_lane").unwrap_or(true),
        watch: section.flag("watch").unwrap_or(false),
    };
    section.finish();
    config
}

/// Host and port, each from flag, environment, file or default, in this order. Values that are overridden are
/// validated too.
fn listen(raw: &Raw<'_>, section: &Section<'_>, report: &Diagnostics) -> SocketAddr {
    let host = |text: &str, place: &SourceLocation| -> Option<IpAddr> {
        cli::parse_host(text).map_err(|wrong| report.mistake(place, wrong)).ok()
    };
    let port = |port: Option<u16>, place: &SourceLocation| -> Option<u16> {
        if port.is_none() {
            report.mistake(place, "is not a port; write 0 to 65535");
        }
        port
    };
    let file_host = section.text("host").and_then(|written| host(written.value, &written.place));
    let file_port =
        section.integer("port").and_then(|written| port(u16::try_from(written.value).ok(), &written.place));
    let env_host = raw.variables.text("SERVER_HOST", report);
    let env_host = env_host.and_then(|written| host(&written.value, &written.place));
    let env_port = raw.variables.text("SERVER_PORT", report);
    let env_port = env_port.and_then(|written| port(written.value.parse().ok(), &written.place));
    SocketAddr::new(
        raw.flags.host.or(env_host).or(file_host).unwrap_or(d::HOST),
        raw.flags.port.or(env_port).or(file_port).unwrap_or(d::PORT),
    )
}

fn workers(raw: &Raw<'_>, section: &Section<'_>, report: &Diagnostics) -> usize {
    let written = section.count("workers", d::WORKERS.with_default(cores()));
    let workers = raw.flags.workers.unwrap_or(written);
    if !(d::WORKERS.min..=d::WORKERS.max).contains(&workers) {
        let (min, max) = (d::WORKERS.min, d::WORKERS.max);
        report.mistake(&SourceLocation::flag("--workers"), format!("is out of range; write {min} to {max}"));
    }
    workers
}

/// If the gateway itself is reachable from this machine only, servers on private addresses are allowed by
/// default.
fn serving_policy(
    root: &Section<'_>,
    server: &HttpConfig,
    inherited: Vec<(String, String)>,
    report: &Diagnostics,
) -> ServingPolicy {
    let section = root.child("admin");
    let allowed = process::allowed(&section, report);
    section.finish();
    ServingPolicy { allow_private: server.listen.ip().to_canonical().is_loopback(), allowed, inherited }
}

fn limits(root: &Section<'_>) -> LimitsConfig {
    let section = root.child("limits");
    let config = LimitsConfig {
        key_in_flight_max: section.count("key_in_flight_max", d::KEY_IN_FLIGHT),
        key_event_streams_max: section.count("key_event_streams_max", d::KEY_EVENT_STREAMS),
        memory_max: section.size_or_auto("memory_max", d::MEMORY, || {
            (memory_limit::available_bytes() / 2).clamp(d::MEMORY.min, d::MEMORY.max)
        }),
    };
    section.finish();
    config
}

fn catalog(root: &Section<'_>) -> CatalogConfig {
    let section = root.child("catalog");
    let config = CatalogConfig {
        list_deadline: section.duration("list_deadline", d::LIST_DEADLINE),
        refresh_after: section.duration("refresh_after", d::REFRESH_AFTER),
        pages_max: section.count("pages_max", d::PAGES),
        items_max: section.count("items_max", d::ITEMS),
        list_bytes_max: section.size("list_bytes_max", d::LIST_BYTES),
        page_items: section.count("page_items", d::PAGE_ITEMS),
    };
    section.finish();
    config
}

fn session(root: &Section<'_>, report: &Diagnostics) -> SessionConfig {
    let section = root.child("session");
    let lifetime = section.duration("lifetime", d::SESSION_LIFETIME);
    // A shorter lifetime alone is not an error, because the idle timeout was not written.
    let idle = d::SESSION_IDLE.with_default(d::SESSION_IDLE.default.min(lifetime));
    let idle_timeout = section.duration("idle_timeout", idle);
    if idle_timeout > lifetime {
        report.mistake(&section.place().below("idle_timeout"), "is longer than session.lifetime; write less");
    }
    let sessions_max = section.count("sessions_max", d::SESSIONS);
    let streams = streams(&section, report);
    section.finish();
    SessionConfig { lifetime, idle_timeout, sessions_max, streams }
}

/// Limits for resumable streams. `None` if resumption is off.
fn streams(section: &Section<'_>, report: &Diagnostics) -> Option<StreamsConfig> {
    let is_on = section.flag("resume").unwrap_or(true);
    let bytes_max = section.size("resume_bytes_max", d::RESUME_BYTES);
    // A lower total alone is not an error, because the limit per stream was not written.
    let of_one = d::RESUME_STREAM_BYTES.with_default(d::RESUME_STREAM_BYTES.default.min(bytes_max));
    let stream_bytes_max = section.size("resume_stream_bytes_max", of_one);
    if stream_bytes_max > bytes_max {
        let place = section.place().below("resume_stream_bytes_max");
        report.mistake(&place, "is more than session.resume_bytes_max; write less");
    }
    let retention = section.duration("resume_for", d::RESUME_FOR);
    let poll_after = section.duration("poll_after", d::POLL_AFTER);
    is_on.then_some(StreamsConfig { bytes_max, stream_bytes_max, retention, poll_after })
}

fn bridge(root: &Section<'_>) -> BridgeConfig {
    let section = root.child("bridge");
    let config = BridgeConfig {
        discover: section.flag("discover").unwrap_or(false),
        hold_timeout: section.duration("hold_timeout", d::HOLD_TIMEOUT),
        holds_max: section.count("holds_max", d::HOLDS),
        holds_per_key_max: section.count("holds_per_key_max", d::HOLDS_PER_KEY),
        sessions_max: section.count("sessions_max", d::BRIDGE_SESSIONS),
        sessions_per_key_max: section.count("sessions_per_key_max", d::BRIDGE_SESSIONS_PER_KEY),
        session_idle_timeout: section.duration("session_idle_timeout", d::BRIDGE_SESSION_IDLE),
    };
    section.finish();
    config
}

fn retention(root: &Section<'_>) -> RetentionPolicy {
    let section = root.child("retention");
    let retention = RetentionPolicy {
        usage: section.duration("usage", d::RETENTION),
        audit: section.duration("audit", d::RETENTION),
    };
    section.finish();
    retention
}

fn telemetry(root: &Section<'_>, context: Context<'_>) -> (MetricsAccess, Option<Tracing>) {
    let section = root.child("telemetry");
    let words = [("key", MetricsAccess::Key), ("open", MetricsAccess::Open), ("off", MetricsAccess::Off)];
    let metrics_access = section.word("metrics", &words, d::METRICS_ACCESS);
    let traces = traces::read(&section, context);
    section.finish();
    (metrics_access, traces)
}

fn log(raw: &Raw<'_>, root: &Section<'_>, report: &Diagnostics) -> LogConfig {
    let section = root.child("log");
    let written =
        section.word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)], LogFormat::Text);
    let valid = |filter: &str, place: &SourceLocation| {
        let mistake = log_filter::mistake(filter);
        if let Some(text) = mistake {
            report.mistake(place, text);
        }
        mistake.is_none()
    };
    let in_file = section.text("filter").filter(|written| valid(written.value, &written.place));
    section.finish();
    let in_env =
        raw.variables.text("RUST_LOG", report).filter(|written| valid(&written.value, &written.place));
    let filter = in_env
        .map(|written| written.value)
        .or_else(|| in_file.map(|written| written.value.to_owned()))
        .unwrap_or_else(|| d::LOG_FILTER.to_owned());
    LogConfig { format: raw.flags.log_format.unwrap_or(written), filter }
}

/// Reads a list of strings in canonical form, without duplicates.
fn list(
    section: &Section<'_>,
    key: &'static str,
    canonical: fn(&str) -> Result<String, &'static str>,
    report: &Diagnostics,
) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for WithLocation { value, place } in section.texts(key).unwrap_or_default() {
        match canonical(value) {
            Ok(text) if seen.insert(text.clone()) => list.push(text),
            Ok(_) => report.mistake(&place, "is there twice"),
            Err(wrong) => report.mistake(&place, wrong),
        }
    }
    list
}

/// Normalizes an origin to the form that browsers send: lower case, no default port, no trailing slash.
fn origin(text: &str) -> Result<String, &'static str> {
    const FORM: &str =
        "is not an origin; write https://host or https://host:port, one for each (there is no *)";
    let url = Url::parse(text).map_err(|_| FORM)?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let nobody = url.username().is_empty() && url.password().is_none();
    if matches!(url.scheme(), "http" | "https") && bare && nobody && !url.authority().contains('*') {
        Ok(url.origin().ascii_serialization())
    } else {
        Err(FORM)
    }
}

/// Normalizes a host name to lower case.
fn host_name(text: &str) -> Result<String, &'static str> {
    const FORM: &str = "is not a host name; write gateway.example.com or gateway.example.com:8443";
    let authority: Authority = text.parse().map_err(|_| FORM)?;
    let plain = !text.contains(['@', '*']) && !authority.host().is_empty() && !text.ends_with(':');
    if plain && (authority.port().is_none() || authority.port_u16().is_some()) {
        Ok(authority.as_str().to_ascii_lowercase())
    } else {
        Err(FORM)
    }
}

/// The cores available to this process (on Linux, including the limit of its cgroup).
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(d::WORKERS.max)
}
