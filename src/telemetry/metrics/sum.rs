//! The cells of all workers, summed up.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::OTHER;
use super::cells::{Cell, Durations, Summed};
use super::desk::{Desk, KINDS, Operations};
use super::operation::{IN_PIECES, Outcome, StreamKind};
use super::text::{Family, Row, Unit, Value};
use crate::base::Kind;

/// As in the semantic conventions of OpenTelemetry, with `_` for `.`.
const METHOD: &str = "mcp_method_name";
const ERROR: &str = "error_type";
/// What these do not name.
const ENDPOINT: &str = "metamcp_endpoint";
const SERVER: &str = "metamcp_server";
const OUTCOME: &str = "outcome";

type Desks<'a> = &'a [Arc<CachePadded<Desk>>];

/// Names by the numbers of their labels.
type Names<'a> = &'a [Arc<str>];

/// By label, method and outcome.
type Histograms = BTreeMap<(usize, usize, usize), Summed>;

pub fn families(
    desks: Desks<'_>,
    methods: &[&'static str],
    endpoints: Names<'_>,
    servers: Names<'_>,
) -> Vec<Family> {
    let mut families = of_endpoints(desks, methods, endpoints);
    families.extend(of_servers(desks, methods, servers));
    families.extend(of_workers(desks));
    families
}

fn of_endpoints(desks: Desks<'_>, methods: &[&'static str], names: Names<'_>) -> Vec<Family> {
    let (mut operations, mut faults) = (Histograms::new(), BTreeMap::new());
    let (mut bytes_in, mut bytes_out) = (BTreeMap::new(), BTreeMap::new());
    for desk in desks {
        for (label, cells) in desk.endpoints() {
            add_operations(&mut operations, label, &cells.operations);
            add_faults(&mut faults, Some(label), &cells.faults);
            bytes_in.entry(label).or_insert(0).add_assign(cells.request_bytes.read());
            bytes_out.entry(label).or_insert(0).add_assign(cells.response_bytes.read());
        }
        add_faults(&mut faults, None, &desk.refused);
    }
    let bytes = |name, help, of: BTreeMap<usize, u64>| {
        let rows = of
            .into_iter()
            .map(|(label, bytes)| Row::new([(ENDPOINT, name_of(names, label))], Value::Count(bytes)));
        Family::counter(name, help, Unit::Bytes, rows.collect())
    };
    vec![
        Family::histogram(
            "mcp_server_operation_duration",
            "Messages of clients, from when they are here until the last byte of their answer was handed out",
            operation_rows(operations, ENDPOINT, names, methods),
        ),
        Family::counter(
            "metamcp_faults",
            "Errors that clients were told of, by what it was; without an endpoint where none was asked for",
            Unit::None,
            fault_rows(faults, ENDPOINT, names),
        ),
        bytes("metamcp_request", "Bytes of messages of clients", bytes_in),
        bytes("metamcp_response", "Bytes of the answers to them", bytes_out),
    ]
}

fn of_servers(desks: Desks<'_>, methods: &[&'static str], names: Names<'_>) -> Vec<Family> {
    let (mut operations, mut faults) = (Histograms::new(), BTreeMap::new());
    let mut first_byte: BTreeMap<usize, Summed> = BTreeMap::new();
    for desk in desks {
        for (label, cells) in desk.servers() {
            add_operations(&mut operations, label, &cells.operations);
            add_faults(&mut faults, Some(label), &cells.faults);
            let whole = |(_, outcome, durations)| (outcome == Outcome::Answer as usize).then_some(durations);
            for durations in cells.operations.counted().filter_map(whole) {
                Durations::add_to(durations, first_byte.entry(label).or_default());
            }
            if let Some(durations) = cells.first_byte.get().and_then(Option::as_deref) {
                durations.add_to(first_byte.entry(label).or_default());
            }
        }
    }
    let first_byte = first_byte.into_iter().map(|(label, summed)| {
        Row::new([(SERVER, name_of(names, label))], Value::Durations(Box::new(summed)))
    });
    vec![
        Family::histogram(
            "mcp_client_operation_duration",
            "Messages of clients that went to a server, from when they were sent until the last byte of the answer came",
            operation_rows(operations, SERVER, names, methods),
        ),
        Family::histogram(
            "metamcp_time_to_first_byte",
            "From when a message was sent to a server until its answer began",
            first_byte.collect(),
        ),
        Family::counter(
            "metamcp_server_faults",
            "Messages that a server did not answer, by what it was",
            Unit::None,
            fault_rows(faults, SERVER, names),
        ),
    ]
}

fn of_workers(desks: Desks<'_>) -> Vec<Family> {
    let total = |cell: &dyn Fn(&Desk) -> &Cell| {
        // One may be counted up while another is down already.
        let sum = desks.iter().fold(0_u64, |sum, desk| sum.wrapping_add(cell(desk).read()));
        Value::Level(i64::try_from(sum).unwrap_or_default())
    };
    let streams = StreamKind::NAMES.iter().enumerate();
    let streams = streams.map(|(at, name)| Row::new([("kind", *name)], total(&|desk| &desk.streams[at])));
    let states = [("open", 0), ("at_rest", 1)];
    let connections =
        states.map(|(name, at)| Row::new([("state", name)], total(&|desk| &desk.connections[at])));
    vec![
        Family::gauge("metamcp_streams", "Event streams that are open towards clients", streams.collect()),
        Family::gauge(
            "metamcp_connections",
            "Connections of clients: all that are open; of these, those on which nothing moves",
            connections.into(),
        ),
        Family::gauge(
            "http_server_active_requests",
            "Requests whose answers have not passed yet",
            vec![Row::new([], total(&|desk| &desk.connections[2]))],
        ),
    ]
}

fn add_operations(sums: &mut Histograms, label: usize, operations: &Operations) {
    for (method, outcome, durations) in operations.counted() {
        let outcome = if outcome == IN_PIECES { Outcome::Answer as usize } else { outcome };
        Durations::add_to(durations, sums.entry((label, method, outcome)).or_default());
    }
}

/// Two kinds have one label when one word says both.
fn add_faults(
    sums: &mut BTreeMap<(Option<usize>, &'static str), u64>,
    label: Option<usize>,
    faults: &[Cell; KINDS],
) {
    for (kind, count) in Kind::ALL.into_iter().zip(faults) {
        let count = count.read();
        if count > 0 {
            *sums.entry((label, kind.label())).or_default() += count;
        }
    }
}

fn operation_rows(
    sums: Histograms,
    of: &'static str,
    names: Names<'_>,
    methods: &[&'static str],
) -> Vec<Row> {
    let row = |((label, method, outcome), summed): ((usize, usize, usize), Summed)| {
        let method = methods.get(method).copied().unwrap_or(OTHER);
        let labels = [(of, name_of(names, label)), (METHOD, method), (OUTCOME, Outcome::NAMES[outcome])];
        Row::new(labels, Value::Durations(Box::new(summed)))
    };
    sums.into_iter().map(row).collect()
}

fn fault_rows(
    sums: BTreeMap<(Option<usize>, &'static str), u64>,
    of: &'static str,
    names: Names<'_>,
) -> Vec<Row> {
    let row = |((label, kind), count): ((Option<usize>, &'static str), u64)| {
        let name = label.map_or("", |label| name_of(names, label));
        Row::new([(of, name), (ERROR, kind)], Value::Count(count))
    };
    sums.into_iter().map(row).collect()
}

/// A name that came since they were asked for is told with the next look.
fn name_of(names: &[Arc<str>], label: usize) -> &str {
    names.get(label).map_or(OTHER, |name| name)
}
