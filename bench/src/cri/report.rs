//! The Markdown page.

use std::fmt::Write as _;

use super::{Network, floor::Floors, load::Load, memory::Memory};
use crate::{
    machine::megabytes,
    samples::{Samples, ms},
};

/// One part of a load.
type Step = fn(&Load) -> &Samples;

#[derive(Debug)]
pub(super) struct Report {
    names: [String; 2],
    machine: String,
    summary: String,
    details: String,
    memory: String,
    floors: String,
}

impl Report {
    pub(super) fn new(names: [String; 2], machine: &str) -> Self {
        Self {
            names,
            machine: machine.to_owned(),
            summary: String::new(),
            details: String::new(),
            memory: String::new(),
            floors: String::new(),
        }
    }

    pub(super) fn load(&mut self, network: Network, at_a_time: u32, loads: &[Load; 2]) {
        let [first, second] = loads;
        let what = match network {
            Network::Host => "host network",
            Network::Pod => "pod network",
        };
        let what = format!("{what}, {at_a_time} at a time");
        for (step, of) in [
            ("ready", (|load| &load.ready) as Step),
            ("stop and remove", |load| &load.stop_and_remove),
        ] {
            for percent in [50, 95, 99] {
                let values = [first, second].map(|load| of(load).percentile(percent).as_secs_f64() * 1_000.0);
                let name = match percent {
                    50 => "median".to_owned(),
                    percent => format!("p{percent}"),
                };
                self.compare(&format!("{what}: {step}, {name}, ms"), values, 1);
            }
        }
        self.compare(
            &format!("{what}: pods a second"),
            [first, second].map(Load::pods_a_second),
            1,
        );
        self.compare(
            &format!("{what}: CPU of a pod's whole life, ms"),
            [first, second].map(|load| load.cpu_a_pod() * 1_000.0),
            1,
        );
        let steps: [(&str, Step); 5] = [
            ("RunPodSandbox", |load| &load.sandbox),
            ("CreateContainer", |load| &load.create),
            ("StartContainer", |load| &load.start),
            ("StopContainer and StopPodSandbox", |load| &load.stop),
            ("RemoveContainer and RemovePodSandbox", |load| &load.remove),
        ];
        for (step, of) in steps {
            let cells = [first, second]
                .map(|load| format!("{} | {}", ms(of(load).median()), ms(of(load).percentile(95))));
            row(&mut self.details, &[&what, step, &cells[0], &cells[1]]);
        }
    }

    pub(super) fn memory(&mut self, looks: [Vec<Memory>; 2]) {
        let [first, second] = looks;
        for (first, second) in first.into_iter().zip(second) {
            let pods = first.pods;
            self.compare_memory(
                &format!("memory of the CRI server's process, {pods} pods, MB"),
                first.server,
                second.server,
            );
            if let (Some(first), Some(second)) = (first.all, second.all) {
                let mut line = String::new();
                compare(
                    &mut line,
                    &format!("server, containerd and shims together (PSS), {pods} pods, MB"),
                    [first, second].map(megabytes),
                    1,
                );
                self.memory.push_str(&line);
            }
        }
    }

    fn compare_memory(&mut self, what: &str, first: u64, second: u64) {
        compare(&mut self.memory, what, [first, second].map(megabytes), 1);
    }

    pub(super) fn logs(&mut self, rates: [f64; 2]) {
        self.compare("log of one container, MB a second of its output", rates, 1);
    }

    pub(super) fn execs(&mut self, samples: &[Samples; 2]) {
        let [first, second] = samples;
        for (name, percent) in [("median", 50), ("p95", 95)] {
            let values = [first, second].map(|samples| samples.percentile(percent).as_secs_f64() * 1_000.0);
            self.compare(&format!("ExecSync of `true`, {name}, ms"), values, 1);
        }
    }

    pub(super) fn floors(&mut self, floors: &Floors) {
        for (name, samples) in [
            (
                "containerd's API with its own shim: object and snapshot",
                &floors.object,
            ),
            ("containerd's API: task create", &floors.task),
            ("containerd's API: task start", &floors.start),
            ("containerd's API: all three", &floors.whole),
            ("the OCI runtime alone: create", &floors.runtime_create),
            ("the OCI runtime alone: start", &floors.runtime_start),
            ("the OCI runtime alone: both", &floors.runtime_whole),
        ] {
            row(
                &mut self.floors,
                &[name, &ms(samples.median()), &ms(samples.percentile(95))],
            );
        }
    }

    pub(super) fn finish(self) -> String {
        let [first, second] = &self.names;
        let mut page = format!("On: {}\n\n", self.machine);
        let _ = write!(
            page,
            "| | {first} | {second} | ratio |\n|---|---:|---:|---:|\n{}{}",
            self.summary, self.memory
        );
        let _ = write!(
            page,
            "\n| load | call | {first}, median ms | p95 | {second}, median ms | p95 |\n|---|---|---:|---:|---:|---:|\n{}",
            self.details
        );
        if !self.floors.is_empty() {
            let _ = write!(
                page,
                "\n| floor | median ms | p95 ms |\n|---|---:|---:|\n{}",
                self.floors
            );
        }
        page
    }

    fn compare(&mut self, what: &str, values: [f64; 2], digits: usize) {
        compare(&mut self.summary, what, values, digits);
    }
}

/// A row with the first side's share of the second's.
fn compare(table: &mut String, what: &str, [first, second]: [f64; 2], digits: usize) {
    let ratio = first / second;
    row(
        table,
        &[
            what,
            &format!("{first:.digits$}"),
            &format!("{second:.digits$}"),
            &format!("{ratio:.2}"),
        ],
    );
}

fn row(table: &mut String, cells: &[&str]) {
    // Writing to a string cannot fail.
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}
