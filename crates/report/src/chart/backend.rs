//! What plotters draws, as SVG.
//!
//! Plotters knows whole pixels and colours. Here a pixel of plotters is a tenth of a unit of the drawing, and a colour stands for a [`Pen`] or a [`Role`]: the
//! style sheet of a page says what it looks like, so that it follows the reader's setting. In a file of its own, presentation attributes say it, because many
//! programs that show SVG know no style sheets.

use std::convert::Infallible;
use std::fmt::Write as _;

use maud::{Markup, html};
use plotters::style::RGBColor;
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontTransform};

use super::figure::text_width_estimate;

/// Pixels of plotters in a unit of the drawing.
pub(super) const FINE: f64 = 10.0;

/// What a shape is drawn with. Colours of series are places in the palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pen {
    Grid,
    Axis,
    /// A vertical line with a name.
    Rule,
    /// A horizontal line for comparison.
    Reference,
    Line(u8),
    /// A line that goes up and down a lot.
    Fine(u8),
    Dashed(u8),
    Band(u8),
    Points(u8),
}

/// What a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Tick,
    Name,
    Title,
}

impl Pen {
    pub(super) fn colour(self) -> RGBColor {
        match self {
            Self::Grid => RGBColor(0, 0, 0),
            Self::Axis => RGBColor(1, 0, 0),
            Self::Rule => RGBColor(2, 0, 0),
            Self::Reference => RGBColor(3, 0, 0),
            Self::Line(i) => RGBColor(4, i, 0),
            Self::Fine(i) => RGBColor(5, i, 0),
            Self::Dashed(i) => RGBColor(6, i, 0),
            Self::Band(i) => RGBColor(7, i, 0),
            Self::Points(i) => RGBColor(8, i, 0),
        }
    }

    fn of((kind, i, _): (u8, u8, u8)) -> Self {
        match kind {
            0 => Self::Grid,
            1 => Self::Axis,
            2 => Self::Rule,
            3 => Self::Reference,
            4 => Self::Line(i),
            5 => Self::Fine(i),
            6 => Self::Dashed(i),
            7 => Self::Band(i),
            _ => Self::Points(i),
        }
    }

    fn class(self) -> String {
        match self {
            Self::Grid => "grid".into(),
            Self::Axis => "axis".into(),
            Self::Rule => "rule".into(),
            Self::Reference => "reference".into(),
            Self::Line(i) => format!("line s{i}"),
            Self::Fine(i) => format!("line fine s{i}"),
            Self::Dashed(i) => format!("line dashed s{i}"),
            Self::Band(i) => format!("band s{i}"),
            Self::Points(i) => format!("points s{i}"),
        }
    }

    /// Colour, width of the stroke and dashes, for a light ground.
    fn attributes(self) -> (&'static str, &'static str, Option<&'static str>) {
        let series = |i: u8| SERIES[usize::from(i) % SERIES.len()];
        match self {
            Self::Grid => (GRID, "1", None),
            Self::Axis => (MUTED, "1", None),
            Self::Rule => (RULE, "1", None),
            Self::Reference => (MUTED, "1", Some("4 3")),
            Self::Line(i) | Self::Band(i) => (series(i), "2", None),
            Self::Fine(i) => (series(i), "1.2", None),
            Self::Dashed(i) => (series(i), "2", Some("6 4")),
            Self::Points(i) => (series(i), "6", None),
        }
    }
}

impl Role {
    pub(super) fn colour(self) -> RGBColor {
        RGBColor(100 + self as u8, 0, 0)
    }

    fn of((kind, ..): (u8, u8, u8)) -> Self {
        match kind {
            100 => Self::Tick,
            101 => Self::Name,
            _ => Self::Title,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Name => "name",
            Self::Title => "title",
        }
    }
}

/// Colours for a light ground, as in the style sheet (which a test compares).
pub(super) const SERIES: [&str; crate::frame::COLOURS] = ["#0072b2", "#d55e00", "#009e73", "#b2568a", "#b07800", "#3f8fc0"];
pub(super) const PAGE: &str = "#ffffff";
pub(super) const TEXT: &str = "#1b1f24";
pub(super) const MUTED: &str = "#5c6670";
pub(super) const RULE: &str = "#d9dde1";
pub(super) const GRID: &str = "#e8ebee";
/// Fonts, as in the style sheet.
pub(super) const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif";

/// Something drawn.
#[derive(Debug)]
pub(super) enum Mark {
    Path { pen: Pen, d: String },
    Text { role: Role, text: String, at: (f64, f64), anchor: &'static str, dy: Level, transform: Option<String> },
}

/// Where the baseline is, below the place of a text and in sizes of its font.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level(f64);

/// A drawing that plotters fills.
pub(super) struct Drawing<'a> {
    pub(super) marks: &'a mut Vec<Mark>,
    /// In units of the drawing.
    pub(super) size: (f64, f64),
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

fn unit(at: i32) -> f64 {
    f64::from(at) / FINE
}

impl Drawing<'_> {
    fn path(&mut self, pen: Pen, points: impl IntoIterator<Item = BackendCoord>, end: &str) {
        let mut d = String::new();
        for (i, (x, y)) in points.into_iter().enumerate() {
            let before = ["M", "L", " "][i.min(2)];
            write!(d, "{before}{} {}", unit(x), unit(y)).ok();
        }
        if !d.is_empty() {
            d += end;
            self.marks.push(Mark::Path { pen, d });
        }
    }
}

impl DrawingBackend for Drawing<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        ((self.size.0 * FINE) as u32, (self.size.1 * FINE) as u32)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, _: BackendCoord, _: BackendColor) -> Drawn {
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        // Plotters asks for the marks of an axis that is not to be seen.
        if style.color().alpha == 0.0 {
            return Ok(());
        }
        let points: Vec<BackendCoord> = path.into_iter().collect();
        // A point by itself is seen as a dot.
        let end = if points.len() == 1 { "h0" } else { "" };
        self.path(Pen::of(style.color().rgb), points, end);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        self.path(Pen::of(style.color().rgb), corners, "Z");
        Ok(())
    }

    /// Circles that follow one another are one path of dots.
    fn draw_circle<S: BackendStyle>(&mut self, (x, y): BackendCoord, _: u32, style: &S, _: bool) -> Drawn {
        let pen = Pen::of(style.color().rgb);
        let dot = format!("M{} {}h0", unit(x), unit(y));
        match self.marks.last_mut() {
            Some(Mark::Path { pen: last, d }) if *last == pen => d.push_str(&dot),
            _ => self.marks.push(Mark::Path { pen, d: dot }),
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        if !text.is_empty() {
            let at = (unit(x), unit(y));
            let upwards = matches!(style.transform(), FontTransform::Rotate270);
            let anchor = match style.anchor().h_pos {
                HPos::Left => "start",
                HPos::Right => "end",
                HPos::Center => "middle",
            };
            let dy = Level(match style.anchor().v_pos {
                VPos::Top => 0.8,
                VPos::Center => 0.34,
                VPos::Bottom => -0.25,
            });
            let transform = upwards.then(|| format!("rotate(-90 {} {})", at.0, at.1));
            self.marks.push(Mark::Text { role: Role::of(style.color().rgb), text: text.to_owned(), at, anchor, dy, transform });
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(&self, text: &str, _: &S) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        Ok(((FINE * text_width_estimate(text)) as u32, (FINE * 12.0) as u32))
    }
}

impl Mark {
    /// For a page: classes of its style sheet.
    pub(super) fn themed(&self) -> Markup {
        match self {
            Self::Path { pen, d } => html! { path class=(pen.class()) d=(d) {} },
            Self::Text { role, text, at, anchor, dy, transform } => {
                html! { text class=(role.class()) x=(at.0) y=(at.1) dy={ (dy.0) "em" } text-anchor=(anchor) transform=[transform.as_deref()] { (text) } }
            }
        }
    }

    /// For a file of its own: colours and sizes.
    pub(super) fn literal(&self) -> Markup {
        match self {
            Self::Path { pen: Pen::Band(i), d } => {
                html! { path fill=(SERIES[usize::from(*i) % SERIES.len()]) fill-opacity="0.18" d=(d) {} }
            }
            Self::Path { pen, d } => {
                let (colour, width, dashes) = pen.attributes();
                let round = matches!(pen, Pen::Line(_) | Pen::Fine(_) | Pen::Points(_)).then_some("round");
                html! {
                    path fill="none" stroke=(colour) stroke-width=(width) stroke-linecap=[round] stroke-linejoin=[round] stroke-dasharray=[dashes] d=(d) {}
                }
            }
            Self::Text { role, text, at, anchor, dy, transform } => {
                let (size, weight, colour) = match role {
                    Role::Title => (15.0, Some("600"), TEXT),
                    Role::Tick | Role::Name => (12.0, None, MUTED),
                };
                // Not every program knows `dy` in a measure that follows the size.
                let y = format!("{:.1}", at.1 + size * dy.0);
                html! {
                    text x=(at.0) y=(y) text-anchor=(anchor) transform=[transform.as_deref()] font-size=[(size != 12.0).then_some(size)] font-weight=[weight] fill=(colour) { (text) }
                }
            }
        }
    }
}
