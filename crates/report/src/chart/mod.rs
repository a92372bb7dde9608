//! Charts: what is in them, and how it is laid out.

mod backend;
mod figure;
mod thin;

use std::path::Path;

use maud::{Markup, html};

use crate::frame;
use crate::page::clean;

/// A chart of lines and points.
///
/// Points that are not finite (or, on a logarithmic axis, not positive) are left out, and break a line. Without ranges the horizontal axis ends where the data
/// end, the vertical one at a tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What is shown: a few words.
    pub title: String,
    /// Name and unit of the horizontal axis, as in `time, ps`.
    pub x: String,
    /// Name and unit of the vertical axis.
    pub y: String,
    /// What is drawn, in this order.
    pub series: Vec<Series>,
    /// Both ends of the horizontal axis.
    pub x_range: Option<(f64, f64)>,
    /// Both ends of the vertical axis.
    pub y_range: Option<(f64, f64)>,
    /// Vertical lines with names instead of numbers, in ascending order: the points of high symmetry along a path (`Γ`, `X|U`). Empty: numbers.
    pub x_ticks: Vec<(f64, String)>,
    /// Whether the vertical axis is logarithmic.
    pub log_y: bool,
    /// Horizontal lines for comparison: zero, a target.
    pub y_lines: Vec<f64>,
}

/// A line, or a set of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend. Series of the same name share an entry; those without have none.
    pub name: String,
    /// Pairs (x, y). A NaN breaks the line.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub look: Look,
    /// Which of the six colours; by default that of its position in the chart.
    pub colour: Option<usize>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// A line. One that goes up and down more often than can be drawn becomes a line through means in a band from the smallest to the largest value.
    Line,
    /// A dashed line.
    Dashed,
    /// Dots.
    Points,
    /// Dots and the line through them.
    LineAndPoints,
}

impl Look {
    fn has_line(self) -> bool {
        self != Self::Points
    }

    fn has_points(self) -> bool {
        matches!(self, Self::Points | Self::LineAndPoints)
    }
}

impl Series {
    /// A series in the colour of its position.
    pub fn new(name: impl Into<String>, look: Look, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, look, colour: None }
    }

    /// The same in another colour.
    #[must_use]
    pub fn colour(mut self, colour: usize) -> Self {
        self.colour = Some(colour);
        self
    }
}

impl Chart {
    /// A chart without series.
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Self {
        let (title, x, y) = (title.into(), x.into(), y.into());
        Self { title, x, y, series: Vec::new(), x_range: None, y_range: None, x_ticks: Vec::new(), log_y: false, y_lines: Vec::new() }
    }

    /// The same with one series more.
    #[must_use]
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// The chart as an SVG file of its own, with title, legend, background and colours: those for a light ground.
    pub fn svg(&self) -> String {
        figure::file(self).into_string()
    }

    /// Writes [`Chart::svg`], complete or not at all.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn write_svg(&self, path: impl AsRef<Path>) -> std::io::Result<()> {
        use std::io::Write as _;
        tesseral_atoms::io::write_atomically(path, |writer| writer.write_all(self.svg().as_bytes()))
    }

    /// The chart as part of a page.
    pub(crate) fn figure(&self) -> Markup {
        let legend = self.legend();
        let (drawing, banded) = figure::inline(self);
        html! {
            figure.chart {
                (frame::caption(&clean(&self.title), ""))
                @if legend.len() > 1 {
                    ul.legend { @for (name, look, colour) in &legend { li { (swatch(*look, *colour)) (clean(name)) } } }
                }
                (drawing)
                @if banded { p.figures { "Lines through means; bands from the smallest to the largest value." } }
            }
        }
    }

    /// What is in the legend: each name once, with the look and colour of the first series that has it.
    fn legend(&self) -> Vec<(&str, Look, usize)> {
        let mut legend: Vec<(&str, Look, usize)> = Vec::new();
        for (i, series) in self.series.iter().enumerate() {
            if !series.name.is_empty() && !series.points.is_empty() && legend.iter().all(|(name, ..)| *name != series.name) {
                legend.push((&series.name, series.look, series.colour.unwrap_or(i) % frame::COLOURS));
            }
        }
        legend
    }
}

fn swatch(look: Look, colour: usize) -> Markup {
    html! {
        svg.swatch viewBox="0 0 22 10" aria-hidden="true" {
            @if look.has_line() { path class={ "line" @if look == Look::Dashed { " dashed" } " s" (colour) } d="M1 5H21" {} }
            @if look.has_points() { path class={ "points s" (colour) } d="M11 5h0" {} }
        }
    }
}

#[cfg(test)]
mod tests;
