//! The `[telemetry.traces]` section and the environment variables of OpenTelemetry.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

use super::defaults as d;
use super::expand::Context;
use super::mistakes::{SourceLocation, WithLocation};
use super::section::Section;
use crate::sections::{ParentPolicy, SamplingRatio, TraceConfig};
use crate::server::ServerAddress;
use crate::server::{address, headers};

/// Reads `[telemetry.traces]` and the environment variables of OpenTelemetry (SDK environment variables, OTLP
/// exporter). The environment takes precedence. `None` if no endpoint is set, or tracing is disabled.
pub(super) fn read(telemetry: &Section<'_>, context: Context<'_>) -> Option<TraceConfig> {
    let section = telemetry.child("traces");
    let in_file =
        section.text("endpoint").and_then(|written| collector_url(&written, Signal::Traces, context));
    let sample = section.fraction("sample");
    let share_in_file = sample.and_then(|written| share(written.value, &written.place, context));
    let words = [("follow", ParentPolicy::Follow), ("ignore", ParentPolicy::Ignore)];
    let parents_in_file = section.word("parents", &words, ParentPolicy::Follow);
    let mut config = TraceConfig {
        endpoint: Url::parse("http://localhost").ok()?,
        headers: collector_headers(&section, context),
        timeout: section.duration("timeout", d::TRACES_TIMEOUT),
        sampling_ratio: share_in_file.unwrap_or(SamplingRatio::ALL),
        parent_policy: parents_in_file,
        traces_per_second_max: section.count("traces_per_second_max", d::TRACES_PER_SECOND),
        service: section.text("service").map_or(d::SERVICE, |written| written.value).to_owned(),
        attributes: section
            .text_map("attributes")
            .into_iter()
            .map(|(name, written)| (name.to_owned(), written.value.to_owned()))
            .collect(),
    };
    section.finish();
    let text = |name| context.variables.text(name, context.report);
    let is_off = text("OTEL_SDK_DISABLED").is_some_and(|written| written.value.eq_ignore_ascii_case("true"));
    let in_env = text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(|written| (written, Base::Never));
    let in_env = in_env.or_else(|| Some((text("OTEL_EXPORTER_OTLP_ENDPOINT")?, Base::Always)));
    let in_env = in_env.filter(|_| !is_off);
    if is_off || in_env.is_none() && in_file.is_none() || !exports(context) {
        return None;
    }
    config.endpoint = match in_env {
        Some((written, base)) => {
            check_protocol(context);
            endpoint(&written, base, Signal::Traces, context)?
        }
        None => in_file?,
    };
    take_variables(&mut config, context);
    Some(config)
}

/// What is exported to a collector.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Logs,
}

/// How an endpoint URL relates to the URL of traces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// The base URL of all OTLP signals.
    Always,
    /// The URL of traces itself.
    Never,
    /// The URL of traces itself, or a base URL if it has no path.
    WherePathless,
}

/// The URL that a signal is posted to. `/v1/traces` or `/v1/logs` is appended if there is no path.
pub(super) fn collector_url(
    written: &WithLocation<&str>,
    signal: Signal,
    context: Context<'_>,
) -> Option<Url> {
    let value = context.expand(written)?;
    let written = WithLocation { value, place: written.place.clone() };
    endpoint(&written, Base::WherePathless, signal, context)
}

fn endpoint(written: &WithLocation<String>, base: Base, signal: Signal, context: Context<'_>) -> Option<Url> {
    const FORM: &str = "is not where OTLP over HTTP is spoken; write \"http://host:4318\"";
    let wrong = |text: &str| {
        context.report.mistake(&written.place, text);
        None
    };
    let mut url = match address::parse(&written.value) {
        Ok(ServerAddress::Http(url)) => url,
        // The form of a server's address has more than a collector can have.
        Ok(_) | Err(address::EXPECTED_FORM) => return wrong(FORM),
        Err(why) => return wrong(why),
    };
    let is_base = base == Base::Always || base == Base::WherePathless && url.path() == "/";
    if is_base {
        let signal = match signal {
            Signal::Traces => "traces",
            Signal::Logs => "logs",
        };
        let path = format!("{}/v1/{signal}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Some(url)
}

fn share(value: f64, place: &SourceLocation, context: Context<'_>) -> Option<SamplingRatio> {
    let share = SamplingRatio::new(value);
    if share.is_none() {
        context.report.mistake(place, "is no share; write 0.0 (nothing) to 1.0 (everything)");
    }
    share
}

/// The headers of requests to a collector.
pub(super) fn collector_headers(
    section: &Section<'_>,
    context: Context<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut list = Vec::new();
    for (name, written) in section.text_map("headers") {
        if let Some(value) = context.expand(&written) {
            add_header(&mut list, name, &value, &written.place, context);
        }
    }
    list
}

fn add_header(
    list: &mut Vec<(HeaderName, HeaderValue)>,
    name: &str,
    value: &str,
    place: &SourceLocation,
    context: Context<'_>,
) {
    match headers::parse(name, value) {
        Err(wrong) => context.report.mistake(place, wrong),
        Ok(_) if list.len() >= HEADERS_MAX => {
            context
                .report
                .mistake(place, format!("is one of more than {HEADERS_MAX} headers; leave some out"));
        }
        Ok(header) => {
            list.retain(|(other, _)| *other != header.0);
            list.push(header);
        }
    }
}

/// Whether the traces exporter is enabled.
fn exports(context: Context<'_>) -> bool {
    match context.variables.text("OTEL_TRACES_EXPORTER", context.report) {
        Some(WithLocation { value, place }) if value != "otlp" => {
            if value != "none" {
                context.report.mistake(&place, "is not spoken here; write otlp, or none");
            }
            false
        }
        _ => true,
    }
}

/// Rejects other protocols: variables shared by several programs may mean gRPC, which uses another port.
fn check_protocol(context: Context<'_>) {
    let text = |name| context.variables.text(name, context.report);
    let protocol = text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| text("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(WithLocation { place, .. }) = protocol.filter(|written| written.value != "http/protobuf") {
        let text = "is not spoken here; write http/protobuf, and its port in the endpoint (mostly 4318)";
        context.report.mistake(&place, text);
    }
}

fn take_variables(config: &mut TraceConfig, context: Context<'_>) {
    let text = |name: &str| context.variables.text(name, context.report);
    let both = |one: &str, other: &str| text(one).or_else(|| text(other));
    if let Some(written) = both("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS") {
        config.headers.clear();
        for (name, value) in pairs(&written, context) {
            add_header(&mut config.headers, &name, &value, &written.place, context);
        }
    }
    if let Some(written) = both("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT") {
        let timeout = written.value.parse().ok().map(Duration::from_millis);
        let bounds = d::TRACES_TIMEOUT.min..=d::TRACES_TIMEOUT.max;
        match timeout.filter(|timeout| bounds.contains(timeout)) {
            Some(timeout) => config.timeout = timeout,
            None => context.report.mistake(&written.place, "is no time; write milliseconds, 100 to 60000"),
        }
    }
    if let Some(written) = text("OTEL_RESOURCE_ATTRIBUTES") {
        for (name, value) in pairs(&written, context) {
            match name.as_str() {
                "service.name" => config.service = value,
                _ => config.attributes.push((name, value)),
            }
        }
    }
    if let Some(written) = text("OTEL_SERVICE_NAME") {
        config.service = written.value;
    }
    if let Some(written) = text("OTEL_TRACES_SAMPLER") {
        take_sampler(config, &written, context);
    }
}

/// Supports the samplers of OpenTelemetry that decide by ratio and by the parent.
fn take_sampler(config: &mut TraceConfig, written: &WithLocation<String>, context: Context<'_>) {
    let ratio = || {
        let arg = context.variables.text("OTEL_TRACES_SAMPLER_ARG", context.report);
        let Some(WithLocation { value, place }) = arg else { return SamplingRatio::ALL };
        share(value.parse().unwrap_or(f64::NAN), &place, context).unwrap_or(SamplingRatio::ALL)
    };
    (config.sampling_ratio, config.parent_policy) = match written.value.as_str() {
        "always_on" => (SamplingRatio::ALL, ParentPolicy::Ignore),
        "always_off" => (SamplingRatio::NONE, ParentPolicy::Ignore),
        "traceidratio" => (ratio(), ParentPolicy::Ignore),
        "parentbased_always_on" => (SamplingRatio::ALL, ParentPolicy::Follow),
        "parentbased_always_off" => (SamplingRatio::NONE, ParentPolicy::Follow),
        "parentbased_traceidratio" => (ratio(), ParentPolicy::Follow),
        _ => {
            let text = "is not known here; write parentbased_traceidratio, parentbased_always_on, \
                        parentbased_always_off, traceidratio, always_on or always_off";
            return context.report.mistake(&written.place, text);
        }
    };
}

/// Parses `name=value,name=value`, with `%` escapes in the values (W3C Baggage, as OpenTelemetry uses it).
fn pairs(written: &WithLocation<String>, context: Context<'_>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for item in written.value.split(',').filter(|item| !item.trim().is_empty()).take(PAIRS_MAX) {
        let pair = item.split_once('=').and_then(|(name, value)| {
            let name = unescaped(name.trim())?;
            (!name.is_empty()).then_some((name, unescaped(value.trim())?))
        });
        match pair {
            Some(pair) => pairs.push(pair),
            // Not quoted, as it may be a secret.
            None => context.report.mistake(&written.place, "is not name=value,name=value"),
        }
    }
    pairs
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A collector needs one or two.
const HEADERS_MAX: usize = 16;

/// A process has about a dozen attributes; further ones are left out.
const PAIRS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::mistakes::Diagnostics;
    use super::super::raw::Variables;
    use super::super::section::TomlFile;
    use super::super::tests::env;
    use super::*;

    /// Reads a configuration, or returns its errors.
    fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Option<TraceConfig>, String> {
        let report = Diagnostics::default();
        let env = env(variables);
        let variables = Variables::process(&env);
        let context = Context { variables: &variables, report: &report, workspace: None };
        let file = TomlFile::parse("metamcp.toml".into(), toml, &report);
        let read = read(&Section::root(file.as_ref(), &report).child("telemetry"), context);
        report.finish().map(|_| read).map_err(|mistakes| mistakes.to_string())
    }

    /// Compares the relevant values of the configuration; `off` if tracing is disabled.
    #[track_caller]
    fn check(toml: &str, variables: &[(&str, &str)], expected: Result<&str, &str>) {
        let toml = if toml.is_empty() { String::new() } else { format!("[telemetry.traces]\n{toml}") };
        let shown = load(&toml, variables).map(|config| {
            config.map_or("off".to_owned(), |config| {
                let TraceConfig {
                    endpoint,
                    headers,
                    timeout,
                    sampling_ratio: share,
                    parent_policy: parents,
                    traces_per_second_max,
                    service,
                    attributes,
                } = config;
                assert!(headers.iter().all(|(_, value)| value.is_sensitive()));
                let headers =
                    headers.iter().map(|(name, value)| format!("{name}:{}", value.to_str().unwrap_or("?")));
                let headers: Vec<_> = headers.collect();
                let attributes: Vec<_> =
                    attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let half = if share == SamplingRatio::ALL {
                    1.0
                } else if share == SamplingRatio::NONE {
                    0.0
                } else {
                    0.5
                };
                assert_eq!(Some(share), SamplingRatio::new(half));
                format!(
                    "{endpoint} {half} {parents:?} {traces_per_second_max} {service} {} {} {}",
                    timeout.as_millis(),
                    headers.join(","),
                    attributes.join(",")
                )
            })
        });
        match (shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown.trim_end(), expected, "{toml} {variables:?}"),
            (Err(shown), Err(expected)) => assert!(shown.contains(expected), "{toml} {variables:?}: {shown}"),
            (shown, _) => panic!("{toml} {variables:?}: {shown:?}, not {expected:?}"),
        }
    }

    const ENDPOINT: &str = "endpoint = \"http://c:4318\"\n";
    const PLAIN: &str = "http://c:4318/v1/traces 1 Follow 100 metamcp 10000";

    #[test]
    fn what_the_file_says() {
        check("", &[], Ok("off"));
        check("sample = 0.5", &[], Ok("off"));
        check(ENDPOINT, &[], Ok(PLAIN));
        check("endpoint = \"https://c/otlp\"", &[], Ok("https://c/otlp 1 Follow 100 metamcp 10000"));
        check(
            &format!(
                "{ENDPOINT}sample = 0.5\nparents = \"ignore\"\ntraces_per_second_max = 7\nservice = \"s\"\n\
                 timeout = \"2s\"\nheaders = {{ Authorization = \"Bearer ${{T}}\" }}\nattributes = {{ a = \"b\" }}"
            ),
            &[("T", "x")],
            Ok("http://c:4318/v1/traces 0.5 Ignore 7 s 2000 authorization:Bearer x a=b"),
        );
        check(
            &format!("{ENDPOINT}sample = 0"),
            &[],
            Ok("http://c:4318/v1/traces 0 Follow 100 metamcp 10000"),
        );
        for (wrong, why) in [
            ("endpoint = \"ftp://c\"", "endpoint"),
            ("endpoint = \"http://u:p@c\"", "user name or password"),
            ("endpoint = \"unix:/x\"", "OTLP over HTTP"),
            ("endpoint = \"http://${NO}\"", "NO is not set"),
            ("sample = 1.1", "0.0 (nothing) to 1.0"),
            ("sample = -0.1", "0.0 (nothing) to 1.0"),
            ("sample = nan", "0.0 (nothing) to 1.0"),
            ("sample = \"all\"", "write a fraction"),
            ("parents = \"trust\"", "write \"follow\" or \"ignore\""),
            ("traces_per_second_max = 0", "out of range"),
            ("headers = { \"a b\" = \"x\" }", "not a header name"),
            ("headers = { Host = \"x\" }", "of the connection"),
            ("sampler = 1", "is unknown"),
        ] {
            check(wrong, &[], Err(why));
        }
    }

    #[test]
    fn what_the_environment_says() {
        const E: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        check("", &[(E, "http://c:4318")], Ok(PLAIN));
        check("", &[(E, "http://c:4318/")], Ok(PLAIN));
        check("", &[(E, "http://c/a/")], Ok("http://c/a/v1/traces 1 Follow 100 metamcp 10000"));
        let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/a/");
        check(ENDPOINT, &[(E, "http://b"), of_traces], Ok("http://c/a/ 1 Follow 100 metamcp 10000"));
        check(
            ENDPOINT,
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", " api-key = a%20b , X=%3D"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
                ("OTEL_SERVICE_NAME", "edge"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,deployment.environment.name=prod"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ],
            Ok(
                "http://c:4318/v1/traces 0.5 Ignore 100 edge 500 api-key:a b,x:= deployment.environment.name=prod",
            ),
        );
        let sampler = |name| check(ENDPOINT, &[("OTEL_TRACES_SAMPLER", name)], Ok(PLAIN));
        ["parentbased_always_on", "parentbased_traceidratio"].into_iter().for_each(sampler);
        let off = [("OTEL_TRACES_SAMPLER", "always_off")];
        check(ENDPOINT, &off, Ok("http://c:4318/v1/traces 0 Ignore 100 metamcp 10000"));
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            check(ENDPOINT, &[off], Ok("off"));
        }
        // Ignored if nothing is traced: the variables may be meant for other programs.
        check("", &[("OTEL_TRACES_SAMPLER", "xray"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], Ok("off"));
        for (name, value, why) in [
            ("OTEL_TRACES_SAMPLER", "xray", "write parentbased_traceidratio"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "write otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "write http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "is not name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "is not name=value"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "milliseconds"),
        ] {
            check("", &[(E, "http://c"), (name, value)], Err(why));
        }
        let ratio =
            [(E, "http://c"), ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        check("", &ratio, Err("0.0 (nothing) to 1.0"));
    }
}
