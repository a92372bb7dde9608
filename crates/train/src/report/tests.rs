use std::collections::BTreeSet;
use std::sync::LazyLock;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::Value;

use tesseral_report::format;

use super::*;
use crate::data::{Frame, Origin, Weights};
use crate::log::{self, LogWriter, Record};
use crate::metrics::{Metrics, Prediction, Quantity};

/// A number that is about normally distributed with the given width.
fn normal(rng: &mut ChaCha12Rng, width: f64) -> f64 {
    width * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

/// Molecules of 27 atoms as in 3BPA, with predictions that are off by some meV.
fn measured(rng: &mut ChaCha12Rng, frames: usize, error: f64, stress: bool) -> Metrics {
    let mut metrics = Metrics::with_samples(3000, 1);
    for frame in 0..frames {
        let numbers: Vec<u8> = [vec![6; 12], vec![1; 11], vec![7; 2], vec![8; 2]].concat();
        let forces: Vec<[f64; 3]> = numbers.iter().map(|_| std::array::from_fn(|_| normal(rng, 1.2))).collect();
        let noise = |z: u8| {
            error
                * match z {
                    1 => 0.6,
                    6 => 1.0,
                    7 => 1.5,
                    _ => 1.7,
                }
        };
        let predicted: Vec<[f64; 3]> = forces
            .iter()
            .zip(&numbers)
            .map(|(f, z)| f.map(|x| x + normal(rng, noise(*z)) * (1.0 + 0.5 * normal(rng, 1.0).powi(2))))
            .collect();
        let energy = -17659.4 + normal(rng, 0.6);
        let label: [f64; 6] = std::array::from_fn(|_| normal(rng, 0.03));
        let frame = Frame {
            structure: tesseral_atoms::Structure::molecule(numbers, vec![[0.0; 3]; 27]),
            energy: Some(energy),
            forces: Some(forces),
            force_mask: None,
            stress: stress.then_some(label),
            weights: Weights::default(),
            group: Some(["300K", "600K", "1200K", "dihedral scan"][frame % 4].into()),
            head: None,
            origin: Origin { file: "3bpa/test_mixed.xyz".into(), frame },
        };
        let stress = label.map(|x| x + normal(rng, 0.08 * error));
        metrics.add(&frame, &Prediction { energy: energy + normal(rng, 0.5 * error), forces: Some(&predicted), stress: Some(stress) });
    }
    metrics
}

fn finding(severity: Severity, message: &str, hint: Option<&str>, frames: Vec<String>) -> Record {
    Record::Finding(FindingRow { severity, message: message.into(), hint: hint.map(Into::into), frames })
}

/// What the trainer would log in a run of 60 epochs with an interruption.
fn records() -> Vec<Record> {
    let mut rng = ChaCha12Rng::seed_from_u64(11);
    let frame = |n: usize| format!("frame {n} of 3bpa/train_300K.xyz");
    let mut records = vec![
        Record::Start(Box::new(log::Start {
            name: "3BPA, small MACE".into(),
            provenance: Provenance {
                version: "tesseral 0.1.0".into(),
                commit: "f985047c0ffee".into(),
                command: "tesseral train models/presets/3bpa.toml --seed 7".into(),
                machine: "AMD EPYC 7R13, 2 cores, 8 GB, Linux 6.8".into(),
                threads: Some(2),
                started: "2026-11-24T11:31:14Z".into(),
                seed: Some(7),
                parameters: Some(184_592),
                precision: "f32, sums in f64".into(),
                architecture: "MACE, 64x0e+64x1o, 2 layers, ν = 3".into(),
                more: vec![("SHA-256 of train_300K.xyz".into(), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into())],
                ..Provenance::default()
            },
            config: "seed = 7\n\n[model]\nfamily = \"mace\"\nhidden_irreps = \"64x0e+64x1o\"\ncutoff = 5.0 # Å\n\n[loss]\nenergy = 1.0\nforces = 100.0\n".into(),
        })),
        finding(Severity::Note, "energy and forces were read from `energy` and `forces`; 500 of 500 frames have both.", None, vec![]),
        finding(
            Severity::Warning,
            "The matrix of element counts has rank 1 of 4: least squares cannot tell atomic energies apart.",
            Some("Give isolated atoms or `e0s` in the configuration; the solution of smallest norm is used."),
            vec![],
        ),
        finding(Severity::Warning, "5 frames are nearly the same as frames of the validation set.", Some("Split by group."), (3..8).map(frame).collect()),
    ];
    let mut step = 0;
    for epoch in 1..=60u64 {
        let decay = (-(epoch as f64) / 14.0).exp();
        let loss = 0.004 + 0.9 * decay;
        let mut sum = 0.0;
        for _ in 0..20 {
            step += 1;
            let loss = loss * (1.0 + 0.35 * normal(&mut rng, 1.0).abs());
            sum += loss;
            records.push(Record::Step(log::Step {
                step,
                epoch,
                loss,
                terms: vec![("energy".into(), 0.1 * loss), ("forces".into(), 0.9 * loss)],
                learning_rate: if step < 50 { 0.01 * step as f64 / 50.0 } else { 0.01 * (0.02 + 0.98 * decay) },
                gradient_norm: 3.0 * loss.sqrt() * (1.0 + 0.3 * normal(&mut rng, 1.0).abs()),
                frames: 5,
                atoms: 135,
                edges: 3400,
                seconds: 0.31,
            }));
        }
        records.push(Record::Epoch(log::Epoch { epoch, step, loss: sum / 20.0, learning_rate: 0.01 * decay, seconds: 31.0 }));
        if epoch == 33 {
            records.push(Record::Resumed(log::Resumed { step, epoch, checkpoint: "run/checkpoint.safetensors".into() }));
        }
        if epoch == 45 {
            records.push(Record::Event(log::Event { step, epoch, message: "stage two: energy weight 1 → 1000".into() }));
        }
        let metrics = measured(&mut rng, 5, 0.008 + 0.25 * decay, true);
        records.push(Record::Validation(Box::new(log::Validation {
            epoch,
            step,
            set: "valid".into(),
            loss: 1.15 * loss,
            best: true,
            averaged: true,
            errors: metrics.summary("valid").errors,
            seconds: 0.8,
        })));
    }
    for (run, growth) in [("with replay", 1.08), ("plain", 2.9)] {
        for (set, start, end) in
            [("old domain (mptrj-random-1k, 200 frames)", 0.08, 0.08 * growth), ("new domain (mlearn/Cu)", 0.09, 0.021)]
        {
            for (phase, epoch, error) in [(Phase::Before, 0, start), (Phase::During, 10, (start + end) / 2.0), (Phase::After, 20, end)] {
                let mut rng = ChaCha12Rng::seed_from_u64(5);
                let errors = measured(&mut rng, 10, error, true).summary(set).errors;
                let row = ForgettingRow { run: run.into(), set: set.into(), phase, epoch, step: epoch * 20, errors };
                records.push(Record::Forgetting(Box::new(row)));
            }
        }
    }
    records.push(Record::Evaluation(Box::new(measured(&mut rng, 50, 0.010, true).summary("valid"))));
    records.push(Record::Evaluation(Box::new(measured(&mut rng, 400, 0.012, true).summary("test"))));
    records.push(Record::End(log::End { step, epoch: 60, reason: "finished".into(), wall_seconds: 6513.0 }));
    records
}

/// Through the log and back, as for a real run.
fn report() -> Report {
    static REPORT: LazyLock<Report> = LazyLock::new(logged);
    REPORT.clone()
}

fn logged() -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut writer = LogWriter::create(&path).unwrap();
    records().iter().for_each(|record| writer.write(record).unwrap());
    Report::from_log(&log::read(&path).unwrap())
}

/// Elements with their attributes in the order of the page, and the text between them. Panics where elements are not nested or not closed, where a
/// `<`, `>` or `&` stands by itself, or where an attribute is not quoted.
fn parse(html: &str) -> (Vec<(String, Vec<(String, String)>)>, String) {
    let mut rest = html.strip_prefix("<!DOCTYPE html>").expect("a document type");
    let (mut open, mut elements, mut text) = (Vec::<String>::new(), Vec::new(), String::new());
    while let Some(place) = rest.find('<') {
        let (before, tag) = rest.split_at(place);
        text += &unescape(before);
        text.push('\n');
        let end = tag.find('>').expect("a tag ends");
        let (tag, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closes what was opened last");
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()), "<{tag}>");
        let mut pairs = Vec::new();
        while !attributes.is_empty() {
            let (key, value) = attributes.split_once("=\"").expect("a quoted attribute");
            let (value, more) = value.split_once('"').expect("the quote ends");
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{key}");
            pairs.push((key.to_owned(), unescape(value)));
            attributes = more.trim_start();
        }
        elements.push((name.to_owned(), pairs));
        if !matches!(name, "meta") {
            open.push(name.to_owned());
        }
        if name == "style" {
            let place = rest.find("</style>").expect("the style sheet ends");
            rest = &rest[place..];
        }
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
    (elements, text)
}

fn unescape(text: &str) -> String {
    assert!(!text.contains(['<', '>']), "{text}");
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "\u{0}");
    assert!(!plain.contains('&'), "{text}");
    plain.replace('\u{0}', "&")
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let html = report().to_html();
    let (elements, _) = parse(&html);
    let names: BTreeSet<&str> = elements.iter().map(|(name, _)| name.as_str()).collect();
    for foreign in ["script", "link", "img", "iframe", "object", "embed", "image", "use", "base", "form", "foreignObject"] {
        assert!(!names.contains(foreign), "{foreign}");
    }
    for forbidden in ["http:", "https:", "//", "url(", "@import", "@font-face", "javascript:"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for (name, attributes) in &elements {
        for (key, value) in attributes {
            assert!(!key.starts_with("on") && key != "src" && key != "srcset", "<{name} {key}>");
            assert!(key != "href" || value.starts_with('#'), "{value}");
        }
    }
    // Links lead somewhere, and identifiers are unique.
    let of =
        |key: &str| -> Vec<String> { elements.iter().flat_map(|(_, a)| a).filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect() };
    let ids = of("id");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for link in of("href") {
        assert!(ids.contains(&link[1..].to_owned()), "{link}");
    }
    // Nothing is drawn at a place that is no number.
    assert!(!html.contains("NaN") && !html.contains("inf "), "a coordinate is not a number");
    assert!(html.len() < 2_000_000, "{}", html.len());
}

#[test]
fn all_numbers_are_there() {
    let report = report();
    let (_, text) = parse(&report.to_html());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let there = |wanted: &str| assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}");
    for row in &report.sets {
        there(&row.set);
        for quantity in [Quantity::EnergyPerAtom, Quantity::Forces, Quantity::Stress] {
            let errors = row.errors.of(quantity).unwrap();
            let factor = quantity.display_unit().1;
            for value in [errors.mae, errors.rmse] {
                // Once beside its parity plot, with four digits.
                there(&format::number(value * factor));
            }
        }
    }
    assert_eq!(report.sets.iter().map(|row| row.set.as_str()).collect::<Vec<_>>(), ["valid", "test"]);
    for table in &report.tables {
        there(&table.title);
        for column in &table.columns {
            there(&column.name);
        }
        for (place, _) in table.columns.iter().enumerate() {
            let numbers =
                || table.rows.iter().filter_map(|row| if let Cell::Number(value) = row.cells[place] { Some(value) } else { None });
            let decimals = format::decimals(numbers()).expect("numbers of one size");
            for number in numbers() {
                let text = format::fixed(number, decimals);
                assert!(lines.contains(&text.as_str()), "{}: {text}", table.title);
            }
        }
        for row in &table.rows {
            assert!(lines.contains(&row.label.as_str()));
            for cell in &row.cells {
                if let Cell::Count(n) = cell {
                    there(&format::count(*n));
                }
            }
        }
    }
    for finding in &report.findings {
        there(&finding.message);
        finding.hint.iter().for_each(|hint| there(hint));
        finding.frames.iter().for_each(|frame| there(frame));
    }
    let provenance = &report.provenance;
    for text in
        [&provenance.commit, &provenance.version, &provenance.command, &provenance.machine, &provenance.started, &provenance.more[0].1]
    {
        there(text);
    }
    for text in
        ["184\u{202f}592", "1 h 49 min", "finished after 60 epochs, 1200 steps", "stage two", "resumed from run/checkpoint.safetensors"]
    {
        there(text);
    }
    assert!(text.contains(&report.config_toml));
    for row in &report.forgetting {
        there(&format!("{}: errors on {}", row.run, row.set));
        if row.phase == Phase::After {
            let before = report.forgetting.iter().find(|r| r.phase == Phase::Before && (&r.run, &r.set) == (&row.run, &row.set)).unwrap();
            let rmse = |row: &ForgettingRow| row.errors.forces.as_ref().unwrap().rmse;
            there(&format::change(rmse(row) / rmse(before) - 1.0));
        }
    }
    let titles: Vec<&str> = report.curves.iter().map(|curve| curve.title.as_str()).collect();
    let expected = ["Loss", "Energy per atom error", "Forces error", "Stress error", "Learning rate", "Norm of the gradient"];
    assert_eq!(titles, expected);
    titles.iter().for_each(|title| there(title));
    assert_eq!(report.curves[0].series.iter().map(|series| series.points.len()).collect::<Vec<_>>(), [60, 60]);
}

/// Puts hostile text into every string of a report that is not the name of a variant.
fn poison(value: &mut Value, key: &str, count: &mut usize) {
    const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;b&gt;</style></title>";
    match value {
        Value::String(text) if !text.is_empty() && !["quantity", "severity", "phase"].contains(&key) => {
            // Names tell rows and sets apart, so they stay different.
            *text = format!("{HOSTILE}{text}");
            *count += 1;
        }
        Value::Array(values) => values.iter_mut().for_each(|value| poison(value, key, count)),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| poison(value, key, count)),
        _ => {}
    }
}

#[test]
fn hostile_names_are_only_text() {
    let report = report();
    let (elements, _) = parse(&report.to_html());
    let mut value = serde_json::to_value(&report).unwrap();
    let mut count = 0;
    poison(&mut value, "", &mut count);
    assert!(count > 100);
    let hostile: Report = serde_json::from_value(value).unwrap();
    let html = hostile.to_html();
    let (poisoned, text) = parse(&html);
    let shape = |elements: &[(String, Vec<(String, String)>)]| -> Vec<String> {
        elements.iter().map(|(name, a)| format!("{name} {}", a.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(" "))).collect()
    };
    // The same elements with the same attributes: nothing of the names became one.
    let (poisoned, benign) = (shape(&poisoned), shape(&elements));
    let different = poisoned.iter().zip(&benign).position(|(a, b)| a != b);
    assert!(different.is_none() && poisoned.len() == benign.len(), "{different:?} {} {}", poisoned.len(), benign.len());
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("onerror=\""));
    assert!(text.matches("<script>alert(1)</script>").count() > 100);
}

#[test]
fn an_empty_report_and_one_without_finite_numbers() {
    parse(&Report::default().to_html());
    parse(&Report::from_log(&[]).to_html());
    let mut report = report();
    for curve in &mut report.curves {
        curve.series.iter_mut().flat_map(|series| &mut series.points).for_each(|point| point.y = f64::NAN);
    }
    for plot in &mut report.parity {
        plot.points.iter_mut().for_each(|point| point.predicted = f64::INFINITY);
        plot.outliers.clear();
        plot.errors.mae = f64::NAN;
    }
    for histogram in &mut report.histograms {
        histogram.bins.clear();
        histogram.mae = f64::NAN;
    }
    let html = report.to_html();
    let (_, text) = parse(&html);
    assert!(text.contains("not a number") && !html.contains("NaN"));
}

#[test]
fn a_run_that_has_hardly_begun_is_shown_by_steps() {
    let records: Vec<Record> = records().into_iter().take(15).collect();
    let report = Report::from_log(&records);
    assert_eq!((report.curves[0].x.as_str(), report.curves[0].series[0].points.len()), ("step", 11));
    parse(&report.to_html());
}

#[test]
fn the_best_validation_counts_where_no_set_was_evaluated() {
    let errors = |frames: u64| SetErrors { frames, ..SetErrors::default() };
    let validation = |epoch: u64, best: bool| {
        let set = "valid".to_owned();
        let errors = errors(epoch);
        Record::Validation(Box::new(log::Validation { epoch, step: epoch, set, loss: 1.0, best, averaged: false, errors, seconds: 0.0 }))
    };
    let report = Report::from_log(&[validation(1, true), validation(2, true), validation(3, false)]);
    assert_eq!(report.sets, [SetRow { set: "valid".into(), errors: errors(2) }]);
}

#[test]
fn it_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let report = report();
    report.write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), report.to_html());
    assert!(report.write(folder.path().join("no/report.html")).unwrap_err().to_string().contains("report.html"));
}

/// For looking at it in a browser: `TESSERAL_SAMPLE_REPORT=report.html cargo test -p tesseral-train -- --ignored sample_report`.
#[test]
fn a_written_report_is_what_was_made() {
    let folder = tempfile::tempdir().unwrap();
    // TESSERAL_SAMPLE_REPORT names a file to keep and look at.
    let path = std::env::var_os("TESSERAL_SAMPLE_REPORT").map_or_else(|| folder.path().join("report.html"), Into::into);
    report().write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), report().to_html());
}
