//! The layout of a chart, and its two forms: part of a page, and a file.

use std::convert::Infallible;
use std::ops::Range;

use maud::{Markup, html};
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, KeyPointWeight, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, ShapeStyle, TRANSPARENT, TextStyle};

use super::backend::{Drawing, FINE, FONTS, Mark, PAGE, Pen, Role};
use super::thin;
use super::{Chart, Look};
use crate::frame::COLOURS;
use crate::page::clean;
use crate::scale::{Axis, Tick, text_width};

/// Size in units of the drawing; about pixels on a desktop. As in the reports of trainings.
const SIZE: (f64, f64) = (520.0, 300.0);
const TOP: f64 = 12.0;
const LEFT: f64 = 3.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 50.0;
/// Between a label and its axis there are 8 units: twice a tick mark.
const TICK: f64 = 4.0;
/// Title and rows of the legend of a file.
const TITLE: f64 = 28.0;
const ROW: f64 = 18.0;
/// Width of a swatch and the space to its name.
const SWATCH: f64 = 28.0;

type Area<'a> = DrawingArea<Drawing<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<Infallible>>;

/// Both axes, from data to the unit square.
struct Axes {
    x: Axis,
    y: Axis,
}

impl Axes {
    fn of(chart: &Chart) -> Self {
        // The other axis does not matter for whether a value has a place: only a logarithmic one is choosy.
        let any = Axis::tight(chart.log_y, [], 0.0, 1.0);
        let linear = Axis::tight(false, [], 0.0, 1.0);
        let points = || chart.series.iter().flat_map(|series| &series.points).filter(|p| linear.has_place(p.0) && any.has_place(p.1));
        let given_x = chart.x_range.and_then(|range| Axis::within(false, range, 0.0, 1.0));
        let mut x = given_x.clone().unwrap_or_else(|| {
            let names = chart.x_ticks.iter().map(|tick| tick.0);
            let tight = Axis::tight(false, points().map(|p| p.0).chain(names), 0.0, 1.0);
            let dotted = chart.series.iter().any(|series| series.look.has_points()) && chart.x_ticks.is_empty();
            // Dots on the axis would be cut in half.
            let (low, high) = tight.range();
            let margin = if dotted { 0.03 * (high - low) } else { 0.0 };
            Axis::within(false, (low - margin, high + margin), 0.0, 1.0).unwrap_or(tight)
        });
        if !chart.x_ticks.is_empty() {
            let named = chart.x_ticks.iter().filter(|tick| x.shows(tick.0));
            x.ticks = named.map(|(value, name)| Tick { value: *value, label: clean(name).into_owned() }).collect();
        }
        let given_y = chart.y_range.and_then(|range| Axis::within(chart.log_y, range, 0.0, 1.0));
        let y = given_y.unwrap_or_else(|| {
            let shown = points().filter(|p| given_x.as_ref().is_none_or(|x| x.shows(p.0))).map(|p| p.1);
            roomy(chart.log_y, shown.chain(chart.y_lines.iter().copied()))
        });
        Self { x, y }
    }
}

/// A vertical axis that begins and ends at a tick where one is near, else a little beyond the values.
fn roomy(log: bool, values: impl Iterator<Item = f64> + Clone) -> Axis {
    let (tight, round) = (Axis::tight(log, values.clone(), 0.0, 1.0), Axis::new(log, values, 0.0, 1.0));
    let (low, high) = tight.range();
    let near = |tick: f64, end: f64| {
        let distance = tick - end;
        if distance.abs() <= 0.1 * (high - low) { tick } else { end + 0.05 * (high - low) * distance.signum() }
    };
    let (first, last) = round.range();
    if log { round } else { Axis::within(false, (near(first, low), near(last, high)), 0.0, 1.0).unwrap_or(round) }
}

/// The unit interval as a coordinate of plotters, with the ticks of an axis.
struct Scale {
    ticks: Vec<(f64, String)>,
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + (f64::from(to) - f64::from(from)) * value).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Bold => self.ticks.iter().map(|tick| tick.0).collect(),
            KeyPointWeight::Any => Vec::new(),
        }
    }

    fn range(&self) -> Range<f64> {
        0.0..1.0
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|tick| tick.0 == *value).map_or_else(String::new, |tick| tick.1.clone())
    }
}

/// Width of a text at the usual size: what plotters asks for.
pub(super) fn text_width_estimate(text: &str) -> f64 {
    text_width(text) * 12.0 / 15.0
}

fn style(pen: Pen) -> ShapeStyle {
    pen.colour().stroke_width(1)
}

fn text_style(role: Role) -> TextStyle<'static> {
    // Font and size are the style sheet's.
    TextStyle { color: role.colour().to_backend_color(), ..TextStyle::from(("sans-serif", 12).into_font()) }
}

fn fine(length: f64) -> i32 {
    (length * FINE).round() as i32
}

/// The marks of a drawing.
fn draw(size: (f64, f64), compose: impl FnOnce(&Area<'_>) -> Drawn) -> Vec<Mark> {
    let mut marks = Vec::new();
    compose(&Drawing { marks: &mut marks, size }.into_drawing_area()).expect("a drawing in memory that only this function has cannot fail");
    marks
}

/// Axes and series, below the first `top` units.
fn compose(chart: &Chart, axes: &Axes, area: &Area<'_>, top: f64) -> Drawn {
    let Axes { x, y } = axes;
    let left = y.widest_label() + if chart.y.is_empty() { 12.0 } else { 34.0 };
    let columns = x.with_room(SIZE.0 - left - RIGHT).into_iter().map(|(at, label)| (at, label.to_owned())).collect();
    let rows = y.ticks.iter().filter(|tick| !tick.label.is_empty()).map(|tick| (y.at(tick.value), tick.label.clone())).collect();
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_top(fine(top + TOP))
        .margin_left(fine(LEFT))
        .margin_right(fine(RIGHT))
        .margin_bottom(fine(3.0))
        .set_label_area_size(LabelAreaPosition::Left, fine(left - LEFT))
        .set_label_area_size(LabelAreaPosition::Bottom, fine(BOTTOM - 3.0));
    let mut context = builder.build_cartesian_2d(Scale { ticks: columns }, Scale { ticks: rows })?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .disable_y_axis()
        .set_tick_mark_size(LabelAreaPosition::Bottom, fine(TICK))
        .bold_line_style(style(Pen::Grid))
        .axis_style(style(Pen::Axis))
        .label_style(text_style(Role::Tick))
        .axis_desc_style(text_style(Role::Name))
        .x_desc(clean(&chart.x))
        .draw()?;
    // The vertical axis has grid lines, so it needs no tick marks: those that plotters draws are transparent.
    context
        .configure_mesh()
        .disable_mesh()
        .disable_x_axis()
        .set_tick_mark_size(LabelAreaPosition::Left, fine(TICK))
        .axis_style(TRANSPARENT)
        .label_style(text_style(Role::Tick))
        .axis_desc_style(text_style(Role::Name))
        .y_desc(clean(&chart.y))
        .draw()?;
    let mut path = |points: Vec<(f64, f64)>, pen: Pen| context.draw_series([PathElement::new(points, style(pen))]).map(drop);
    for (value, _) in &chart.x_ticks {
        if x.shows(*value) {
            path(vec![(x.at(*value), 0.0), (x.at(*value), 1.0)], Pen::Rule)?;
        }
    }
    path(vec![(0.0, 0.0), (0.0, 1.0)], Pen::Axis)?;
    for value in chart.y_lines.iter().filter(|value| y.shows(**value)) {
        path(vec![(0.0, y.at(*value)), (1.0, y.at(*value))], Pen::Reference)?;
    }
    let mut empty = true;
    for (i, series) in chart.series.iter().enumerate() {
        let colour = (series.colour.unwrap_or(i) % COLOURS) as u8;
        if series.look.has_line() {
            let stroke = thin::line(&series.points, x, y);
            empty &= stroke.lines.is_empty();
            context.draw_series(stroke.bands.into_iter().map(|band| Polygon::new(band, Pen::Band(colour).colour().filled())))?;
            let pen = match series.look {
                Look::Dashed => Pen::Dashed(colour),
                _ if stroke.fine => Pen::Fine(colour),
                _ => Pen::Line(colour),
            };
            context.draw_series(stroke.lines.into_iter().map(|line| PathElement::new(line, style(pen))))?;
        }
        if series.look.has_points() {
            let dots = thin::dots(&series.points, x, y);
            empty &= dots.is_empty();
            context.draw_series(dots.into_iter().map(|dot| Circle::new(dot, fine(3.0), Pen::Points(colour).colour().filled())))?;
        }
    }
    if empty {
        let place = Pos::new(HPos::Center, VPos::Center);
        context.draw_series([Text::new("no values to show", (0.5, 0.5), text_style(Role::Name).pos(place))])?;
    }
    Ok(())
}

/// The drawing in a page, whose style sheet has colours and sizes; and whether lines are drawn through means.
pub(super) fn inline(chart: &Chart) -> (Markup, bool) {
    let marks = draw(SIZE, |area| compose(chart, &Axes::of(chart), area, 0.0));
    let banded = marks.iter().any(|mark| matches!(mark, Mark::Path { pen: Pen::Band(_), .. }));
    let drawing = html! {
        svg viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img" {
            title { (clean(&chart.title)) }
            @for mark in &marks { (mark.themed()) }
        }
    };
    (drawing, banded)
}

/// The drawing as a file.
pub(super) fn file(chart: &Chart) -> Markup {
    let legend = chart.legend();
    let entries = if legend.len() > 1 { legend_places(&legend) } else { Vec::new() };
    let rows = entries.last().map_or(0.0, |entry| entry.1 + 1.0);
    let top = if chart.title.is_empty() { 0.0 } else { TITLE } + rows * ROW;
    let size = (SIZE.0, SIZE.1 + top);
    let marks = draw(size, |area| {
        let title = clean(&chart.title);
        area.draw(&Text::new(&*title, (fine(14.0), fine(14.0)), text_style(Role::Title).pos(Pos::new(HPos::Left, VPos::Top))))?;
        for ((left, row), (name, look, colour)) in entries.iter().zip(&legend) {
            let (left, middle) = (*left, top - (rows - row) * ROW + 12.0);
            let pen = if *look == Look::Dashed { Pen::Dashed(*colour as u8) } else { Pen::Line(*colour as u8) };
            if look.has_line() {
                area.draw(&PathElement::new(vec![(fine(left), fine(middle)), (fine(left + 20.0), fine(middle))], style(pen)))?;
            }
            if look.has_points() {
                area.draw(&Circle::new((fine(left + 10.0), fine(middle)), fine(3.0), Pen::Points(*colour as u8).colour().filled()))?;
            }
            let place = Pos::new(HPos::Left, VPos::Center);
            area.draw(&Text::new(clean(name), (fine(left + SWATCH), fine(middle)), text_style(Role::Name).pos(place)))?;
        }
        compose(chart, &Axes::of(chart), area, top)
    });
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (size.0) " " (size.1) } width=(1.5 * size.0) height=(1.5 * size.1) role="img"
            font-family=(FONTS) font-size="12" {
            title { (clean(&chart.title)) }
            rect width=(size.0) height=(size.1) fill=(PAGE) {}
            @for mark in &marks { (mark.literal()) }
        }
    }
}

/// Left edge and row of each entry of a legend, from left to right and wrapped.
fn legend_places(legend: &[(&str, Look, usize)]) -> Vec<(f64, f64)> {
    let (mut left, mut row) = (14.0, 0.0);
    let mut places = Vec::new();
    for (name, ..) in legend {
        let width = SWATCH + text_width_estimate(name) + 14.0;
        if left + width > SIZE.0 && left > 14.0 {
            (left, row) = (14.0, row + 1.0);
        }
        places.push((left, row));
        left += width;
    }
    places
}
