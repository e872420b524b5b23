"""The style of the HTML. Text has the page's own colour, and its own where it has a background."""

STYLE = """
.qconf { line-height: 1.5; max-width: 62rem; font-family: system-ui, sans-serif; font-size: 14px; }
.qconf h4 { margin: 1rem 0 .3rem; font-size: 1em; }
.qconf p { margin: .4rem 0; max-width: none; }
.qconf table { border-collapse: collapse; margin: .3rem 0; font-size: inherit; }
.qconf :is(th, td) { text-align: left; vertical-align: top; padding: .15rem 1.2rem .15rem 0; font-weight: normal;
  background: none; border: 0; color: inherit; }
.qconf thead th, .qconf small { opacity: .75; font-size: .85em; }
.qconf .tokens { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.qconf .tokens span { border-radius: 2px; padding: .1em 0; unicode-bidi: isolate;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.qconf .tokens .fork { outline: 2px solid currentColor; outline-offset: 1px; font-weight: bold; }
.qconf td .tokens { display: inline; }
.qconf .legend span { display: inline-block; min-width: 3.2em; text-align: center; font-size: .85em; }
.qconf .number { font-variant-numeric: tabular-nums; text-align: right; }
.qconf .answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1.5rem; }
.qconf .flip { font-weight: bold; }
.qconf :is(th, b).base { border-left: 4px solid #0072b2; padding-left: .5rem; }
.qconf :is(th, b).quantized { border-left: 4px solid #d55e00; padding-left: .5rem; }
.qconf .bar { display: grid; grid-template-columns: 9rem 4.5em; gap: .6rem; align-items: center; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.qconf .bar i { height: .6rem; background: #8883; }
.qconf .bar b { display: block; height: 100%; background: #0072b2; }
.qconf .bar.quantized b { background: #d55e00; }
.qconf summary { cursor: pointer; }
"""
