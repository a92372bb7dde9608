use roxmltree::Document;

use super::backend::{GRID, MUTED, PAGE, RULE, SERIES, TEXT};
use super::*;
use crate::{Page, Table};

fn chart(points: Vec<(f64, f64)>) -> Chart {
    Chart::new("Title", "x, Å", "y, eV").series(Series::new("a", Look::Line, points))
}

fn parsed(svg: &str) -> Document<'_> {
    let document = Document::parse(svg).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    document
}

/// Texts but the title, with their places.
fn texts(svg: &str) -> Vec<(String, f64, f64)> {
    let document = parsed(svg);
    let number = |node: &roxmltree::Node, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let texts = document.descendants().filter(|node| node.tag_name().name() == "text");
    texts.map(|node| (node.text().unwrap_or("").to_owned(), number(&node, "x"), number(&node, "y"))).collect()
}

/// Labels of the horizontal axis: those below the drawing.
fn below(svg: &str) -> Vec<(String, f64, f64)> {
    texts(svg).into_iter().filter(|text| (290.0..300.0).contains(&text.2)).collect()
}

/// Labels of the vertical axis: to the left of the drawing, in a column of their own.
fn beside(svg: &str) -> Vec<(String, f64, f64)> {
    let document = parsed(svg);
    let ends: Vec<_> =
        document.descendants().filter(|node| node.attribute("text-anchor") == Some("end")).filter_map(|node| node.text()).collect();
    let labels = texts(svg).into_iter().filter(|text| ends.contains(&text.0.as_str()) && !(290.0..300.0).contains(&text.2));
    labels.map(|(text, x, y)| (text, x, y - 0.34 * 12.0)).collect()
}

/// The paths of a colour, as lists of points.
fn paths(svg: &str, colour: &str) -> Vec<Vec<(f64, f64)>> {
    let document = parsed(svg);
    let strokes = document.descendants().filter(|node| [node.attribute("stroke"), node.attribute("fill")].contains(&Some(colour)));
    let lines = strokes.filter_map(|node| node.attribute("d")).flat_map(|d| d.split('M').skip(1));
    lines
        .map(|line| {
            let numbers: Vec<f64> =
                line.trim_end_matches('Z').replace("h0", "").replace('L', " ").split(' ').map(|word| word.parse().unwrap()).collect();
            numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect()
        })
        .collect()
}

#[test]
fn a_file_has_title_axes_and_the_line_where_it_belongs() {
    let svg = chart(vec![(0.0, 0.0), (1.0, 4.0), (4.0, 10.0)]).svg();
    let document = parsed(&svg);
    let root = document.root_element();
    assert_eq!((root.attribute("role"), root.attribute("viewBox")), (Some("img"), Some("0 0 520 328")));
    assert_eq!(root.first_element_child().unwrap().text(), Some("Title"));
    let texts = texts(&svg);
    let place = |texts: &[(String, f64, f64)], label: &str| {
        let text = texts.iter().find(|text| text.0 == label).unwrap_or_else(|| panic!("{label} in {texts:?}"));
        (text.1, text.2)
    };
    for words in ["Title", "x, Å", "y, eV"] {
        place(&texts, words);
    }
    // Each point is above the label of its abscissa and beside that of its ordinate.
    let line = &paths(&svg, SERIES[0])[0];
    for (point, (x, y)) in line.iter().zip([("0", "0"), ("1", "4"), ("4", "10")]) {
        let expected = (place(&below(&svg), x).0, place(&beside(&svg), y).1);
        assert!((point.0 - expected.0).abs() < 0.2 && (point.1 - expected.1).abs() < 0.2, "{point:?} {expected:?}");
    }
    // One series needs no legend.
    assert!(!texts.iter().any(|text| text.0 == "a"));
}

#[test]
fn ticks_are_round_and_do_not_overlap() {
    for (from, to) in [(0.0, 1.0), (-3.2, 17.9), (1e-7, 3e-7), (123_456.0, 123_457.5), (-2e9, 5e9), (0.0, 1e5)] {
        let svg = chart((0..9).map(|i| from + (to - from) * f64::from(i) / 8.0).map(|v| (v, v)).collect()).svg();
        let bottom = below(&svg);
        assert!((2..12).contains(&bottom.len()), "{from} {to}: {bottom:?}");
        for pair in bottom.windows(2) {
            let half = |text: &str| 7.0 * text.chars().count() as f64 / 2.0;
            assert!(pair[0].1 + half(&pair[0].0) < pair[1].1 - half(&pair[1].0), "{pair:?}");
        }
        // All that the labels say is true of where they are: places are linear in the numbers.
        let value = |label: &str| -> f64 {
            let (digits, exponent) = label.split_once(" × 10").unwrap_or((label, ""));
            let exponent: String =
                exponent.chars().map(|c| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|d| d == c).map_or('-', |d| char::from(b'0' + d as u8))).collect();
            let thousands = if digits.ends_with('k') { 1000.0 } else { 1.0 };
            let digits: f64 = digits.trim_end_matches('k').replace('−', "-").parse().unwrap();
            digits * thousands * 10f64.powi(if exponent.is_empty() { 0 } else { exponent.parse().unwrap() })
        };
        for (labels, place) in [(&bottom, 1), (&beside(&svg), 2)] {
            let at = |i: usize| if place == 1 { labels[i].1 } else { -labels[i].2 };
            let last = labels.len() - 1;
            let slope = (value(&labels[last].0) - value(&labels[0].0)) / (at(last) - at(0));
            assert!(slope > 0.0);
            for i in 1..=last {
                let step = value(&labels[i].0) - value(&labels[i - 1].0);
                assert!((step / slope - (at(i) - at(i - 1))).abs() < 0.3, "{labels:?}");
                let mantissa = step / 10f64.powf((step * (1.0 + 1e-9)).log10().floor());
                assert!([1.0, 2.0, 4.0, 5.0].iter().any(|nice| (mantissa / nice - 1.0).abs() < 1e-6), "{step} {labels:?}");
            }
        }
    }
}

#[test]
fn a_logarithmic_axis() {
    let mut chart = chart(vec![(0.0, 1.0), (1.0, 0.0), (2.0, 1e-3), (3.0, 1e-4), (4.0, -1.0)]);
    chart.log_y = true;
    let svg = chart.svg();
    let lengths: Vec<usize> = paths(&svg, SERIES[0]).iter().map(Vec::len).collect();
    // What is not positive is left out and breaks the line.
    assert_eq!(lengths, [1, 2]);
    let texts = texts(&svg);
    let at = |label: &str| texts.iter().find(|text| text.0 == label).unwrap_or_else(|| panic!("{texts:?}")).2;
    assert!((2.0 * at("0.01") - at("1") - at("10⁻⁴")).abs() < 0.3);
}

#[test]
fn named_lines_of_a_band_structure() {
    let mut chart = chart(vec![(0.0, 1.0), (1.0, 2.0), (f64::NAN, f64::NAN), (1.0, 3.0), (2.0, 1.0)]);
    chart.x_ticks = vec![(0.0, "Γ".into()), (1.0, "X|U".into()), (1.001, "K".into()), (2.0, "L".into()), (3.0, "far".into())];
    chart.x_range = Some((0.0, 2.0));
    chart.y_lines = vec![0.0, f64::NAN];
    let svg = chart.svg();
    let labels: Vec<String> = texts(&svg).into_iter().map(|text| text.0).collect();
    // K has no room, and what is beyond the range is not drawn.
    assert!(["Γ", "X|U", "L", "0"].iter().all(|name| labels.iter().any(|label| label == name)), "{labels:?}");
    assert!(!labels.iter().any(|label| ["K", "far"].contains(&label.as_str())), "{labels:?}");
    assert_eq!(paths(&svg, RULE).len(), 4);
    assert_eq!(paths(&svg, SERIES[0]).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(svg.matches("stroke-dasharray=\"4 3\"").count(), 1);
}

#[test]
fn what_is_outside_of_given_ranges_is_cut_off() {
    let mut chart = chart(vec![(-5.0, -5.0), (5.0, 5.0)]).series(Series::new("b", Look::Points, vec![(0.5, 0.5), (0.5, 7.0), (9.0, 0.5)]));
    (chart.x_range, chart.y_range) = (Some((0.0, 1.0)), Some((0.0, 2.0)));
    let svg = chart.svg();
    let line = &paths(&svg, SERIES[0]);
    // The second is the swatch of the legend, or the first.
    let line = line.iter().find(|line| line[0].0 < line[1].0 && line[0].1 > line[1].1).unwrap();
    let dots = paths(&svg, SERIES[1]);
    // One dot in the legend, one in the chart, in the middle of the line.
    assert_eq!(dots.len(), 2);
    let middle = ((line[0].0 + line[1].0) / 2.0, (line[0].1 + line[1].1) / 2.0);
    assert!((dots[1][0].0 - middle.0).abs() < 0.2 && (dots[1][0].1 - middle.1).abs() < 0.2, "{dots:?} {line:?}");
    // Ranges that are none are as good as not given.
    for range in [(1.0, 0.0), (f64::NAN, 1.0), (1.0, 1.0)] {
        (chart.x_range, chart.y_range) = (Some(range), Some(range));
        let mut free = chart.clone();
        (free.x_range, free.y_range) = (None, None);
        assert_eq!(chart.svg(), free.svg());
    }
}

#[test]
fn nothing_constant_and_extreme_values_are_drawn_without_a_panic() {
    let nan = f64::NAN;
    let cases: [Vec<(f64, f64)>; 9] = [
        vec![],
        vec![(nan, nan)],
        vec![(1.0, nan), (nan, 1.0)],
        vec![(1.0, 1.0)],
        vec![(0.0, -17.0), (1.0, -17.0), (2.0, -17.0)],
        vec![(3.0, 0.0), (3.0, 1.0)],
        vec![(0.0, f64::INFINITY), (1.0, f64::NEG_INFINITY)],
        vec![(f64::MIN, f64::MAX), (f64::MAX, f64::MIN), (1e-320, -1e-320)],
        vec![(0.0, 1e-200), (1.0, 1e200)],
    ];
    for (i, points) in cases.into_iter().enumerate() {
        for look in [Look::Line, Look::Dashed, Look::Points, Look::LineAndPoints] {
            for log_y in [false, true] {
                let mut chart = Chart::new("t", "x", "y").series(Series::new("s", look, points.clone()));
                chart.log_y = log_y;
                let svg = chart.svg();
                parsed(&svg);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert_eq!(svg.contains("no values to show"), i < 3 || i == 6 || (log_y && [4, 7].contains(&i)), "{i} {log_y}");
            }
        }
    }
    parsed(&Chart::new("", "", "").svg());
}

#[test]
fn many_points_make_a_small_file() {
    let wave: Vec<(f64, f64)> = (0..200_000).map(f64::from).map(|x| (x, (x / 3e4).sin())).collect();
    let noise: Vec<(f64, f64)> = (0..200_000u32).map(|i| (f64::from(i), f64::from(i.wrapping_mul(2_654_435_761) >> 8))).collect();
    for points in [wave, noise] {
        for look in [Look::Line, Look::Dashed, Look::LineAndPoints] {
            let mut one = chart(points.clone());
            one.series[0].look = look;
            let size = one.svg().len();
            assert!(size < 40_000 + if look == Look::LineAndPoints { 500_000 } else { 0 }, "{look:?}: {size}");
        }
    }
}

#[test]
fn a_legend_has_each_name_once() {
    let line = vec![(0.0, 0.0), (1.0, 1.0)];
    let mut chart = chart(line.clone());
    for name in ["a", "DFT, a name that is long enough for a row", "", "another name that is long enough for a row", "third"] {
        chart = chart.series(Series::new(name, Look::Dashed, line.clone()).colour(7));
    }
    let svg = chart.svg();
    let texts = texts(&svg);
    let rows: Vec<f64> = ["a", "DFT, a name that is long enough for a row", "another name that is long enough for a row", "third"]
        .iter()
        .map(|name| {
            let found: Vec<_> = texts.iter().filter(|text| text.0 == *name).collect();
            assert_eq!(found.len(), 1, "{name}");
            assert!(found[0].1 + 6.0 * name.len() as f64 <= 520.0, "{found:?}");
            found[0].2
        })
        .collect();
    assert!(rows[0] == rows[1] && rows[2] > rows[1], "{rows:?}");
    // Colours beyond the last begin again.
    assert!(svg.contains(SERIES[1]));
    let html = chart.figure().into_string();
    assert_eq!(html.matches("<li>").count(), 4);
}

const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;b&gt;\u{0}\u{1b}</style></title>]]>";

#[test]
fn hostile_text_is_only_text() {
    let build = |text: &str| {
        let mut chart = Chart::new(text, text, text);
        for i in 0..2 {
            chart = chart.series(Series::new(format!("{text}{i}"), Look::Line, vec![(0.0, 0.0), (1.0, 1.0)]));
        }
        chart.x_ticks = vec![(0.5, text.into())];
        chart
    };
    let shape = |svg: &str| -> Vec<String> {
        let document = parsed(svg);
        let elements = document.descendants().filter(roxmltree::Node::is_element);
        let mut shape: Vec<String> =
            elements.map(|e| format!("{} {:?}", e.tag_name().name(), e.attributes().map(|a| a.name()).collect::<Vec<_>>())).collect();
        shape.sort();
        shape
    };
    // The same elements with the same attributes as with harmless text.
    assert_eq!(shape(&build(HOSTILE).svg()), shape(&build("harmless").svg()));
    let mut page = Page::new(HOSTILE);
    page.kicker(HOSTILE);
    page.footer(HOSTILE);
    page.facts(&[(HOSTILE, HOSTILE.into())]);
    for _ in 0..2 {
        page.section(HOSTILE);
        page.text(HOSTILE);
        page.table(&Table {
            caption: HOSTILE.into(),
            columns: vec![HOSTILE.into(), format!("{HOSTILE}\n{HOSTILE}")],
            rows: vec![vec![HOSTILE.into(), "1".into()]],
        });
        page.chart(&build(HOSTILE));
    }
    let html = page.html();
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("onerror=\""));
    // But for the style sheet, the only places with a closing tag of either name are ours.
    assert_eq!((html.matches("</style>").count(), html.matches("</head>").count()), (1, 1));
    assert!(!html.contains('\0') && !html.contains('\u{1b}'));
}

/// A page is well-formed XML but for what HTML does otherwise: the document type, and elements without end.
fn checked(html: &str) -> (usize, String) {
    let body = html.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut xml = String::new();
    let mut rest = body;
    while let Some(place) = rest.find("<meta") {
        let end = place + rest[place..].find('>').unwrap();
        xml += &rest[..end];
        xml += "/>";
        rest = &rest[end + 1..];
    }
    xml += rest;
    let document = Document::parse(&xml).unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for id in document.descendants().filter_map(|node| node.attribute("id")) {
        assert!(ids.insert(id.to_owned()), "{id} twice");
    }
    for link in document.descendants().filter_map(|node| node.attribute("href")) {
        assert!(ids.contains(link.strip_prefix('#').expect("links lead within the page")), "{link}");
    }
    assert!(!document.descendants().any(|node| ["script", "img", "link", "iframe"].contains(&node.tag_name().name())));
    (document.descendants().count(), document.descendants().filter_map(|node| node.text()).collect())
}

#[test]
fn a_page_is_one_document() {
    let mut page = Page::new("Report");
    page.text("before the first section");
    page.facts(&[("name", "value".into())]);
    page.section("Same & same");
    page.chart(&chart(vec![(0.0, 1.0), (1.0, 2.0)]));
    page.chart(&chart(vec![]));
    page.section("Same & same");
    page.table(&Table {
        caption: "Numbers".into(),
        columns: vec!["name".into(), "energy\neV".into(), "note".into()],
        rows: vec![
            vec!["−1 (a name)".into(), "−1.5".into()],
            vec!["b".into(), "2.0i".into(), "words".into()],
            vec!["c".into(), "1.2e-5".into(), "3".into(), "too many".into()],
        ],
    });
    page.section("Γ");
    let html = page.html();
    let (elements, text) = checked(&html);
    assert!(elements > 60);
    for words in ["before the first section", "value", "Numbers", "words", "no values to show"] {
        assert!(text.contains(words), "{words}");
    }
    assert!(!text.contains("too many"));
    assert_eq!((html.matches("<h2>").count(), html.matches("<td class=\"number\">").count()), (3, 3));
    assert!(html.contains("energy <span class=\"unit\">eV</span>"), "units are in a line of their own");
    // Both charts are in one row.
    assert_eq!(html.matches("class=\"grid level\"").count(), 1);
    checked(&Page::new("").html());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    page.write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), html);
    assert!(page.write(folder.path().join("no/report.html")).unwrap_err().to_string().contains("report.html"));
    let path = folder.path().join("chart.svg");
    chart(vec![(0.0, 1.0)]).write_svg(&path).unwrap();
    parsed(&std::fs::read_to_string(path).unwrap());
}

/// The colours of files are those of the style sheet for a light ground, and every class that is drawn with is in it.
#[test]
fn files_and_pages_have_the_same_colours() {
    let light = frame::STYLE.split("@media").next().unwrap();
    let names = [("page", PAGE), ("text", TEXT), ("muted", MUTED), ("rule", RULE), ("grid", GRID)];
    let series = SERIES.iter().enumerate().map(|(i, colour)| (format!("s{i}"), *colour));
    for (name, colour) in names.map(|(name, colour)| (name.to_owned(), colour)).into_iter().chain(series) {
        assert!(light.contains(&format!("--{name}: {colour};")), "{name} {colour}");
    }
    for class in ["grid", "axis", "rule", "reference", "line", "line.fine", "line.dashed", "band", "points"] {
        assert!(frame::STYLE.contains(&format!("svg .{class} {{")), "{class}");
    }
}

#[test]
fn a_chart_in_a_page_has_no_colours_of_its_own() {
    let html = chart(vec![(0.0, 1.0), (1.0, 2.0)]).figure().into_string();
    assert!(!html.contains('#') && !html.contains("font-"), "{html}");
    assert!(html.contains("role=\"img\"") && html.contains("<title>Title</title>") && html.contains("class=\"line s0\""));
}
