//! Reports for people: pages that need nothing but themselves, and charts.
//!
//! A [`Page`] is one HTML file with headings, facts, tables and charts. It has no scripts, asks the network for nothing, and forbids both in its content
//! security policy; it follows the light or dark setting of the reader, fits a phone, and prints. A [`Chart`] becomes part of a page, or a file of its own
//! ([`Chart::write_svg`]).
//!
//! ```
//! use tesseral_report::{Chart, Look, Page, Series, Table};
//!
//! let volumes: Vec<f64> = (0..7).map(|i| 36.0 + 1.5 * f64::from(i)).collect();
//! let fit = |v: f64| -10.83 + 2e-3 * (v - 40.5).powi(2);
//! let mut page = Page::new("Equation of state of Si");
//! page.facts(&[("Model", "SevenNet-0".into()), ("Bulk modulus", "92.1 GPa".into())]);
//! page.section("Energy against volume");
//! page.chart(
//!     &Chart::new("Energy", "volume, Å³", "energy, eV")
//!         .series(Series::new("computed", Look::Points, volumes.iter().map(|v| (*v, fit(*v) + 1e-4)).collect()))
//!         .series(Series::new("Birch–Murnaghan", Look::Line, volumes.iter().map(|v| (*v, fit(*v))).collect())),
//! );
//! page.table(&Table {
//!     caption: "Computed".into(),
//!     columns: vec!["volume\nÅ³".into(), "energy\neV".into()],
//!     rows: volumes.iter().map(|v| vec![format!("{v:.2}"), format!("{:.4}", fit(*v))]).collect(),
//! });
//! assert!(page.html().starts_with("<!DOCTYPE html>"));
//! ```
//!
//! Charts are composed by [plotters](https://docs.rs/plotters): coordinates, meshes and series. What it draws is written by a backend of this crate, because a
//! page wants classes of its style sheet where plotters has colours, and tenths of a pixel where plotters has pixels. Where ticks are and how they are written is
//! in [`scale`] and [`format`](mod@format), and which points of a long series are drawn is decided here too: plotters has no answer to a NaN, and moves points
//! outside of the axes onto them.

mod chart;
pub mod format;
pub mod frame;
mod page;
pub mod scale;

pub use chart::{Chart, Look, Series};
pub use page::{Page, Table};
