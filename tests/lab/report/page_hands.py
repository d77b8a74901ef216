"""A person's actions on the charts of a page in a browser, and the page's answers."""

# Of a panel of the main chart what its curves are cut to.
PLOT = "document.querySelectorAll('#course clipPath rect')[{}]"
SAID = "document.querySelector('#course + .tip').textContent"


def shown(browser, arm):
    """The number of charts that show an arm."""
    return browser.run(
        "[...document.querySelectorAll('.chart')].filter(c => c.querySelector("
        f"`.trace[data-arm='{arm}'] path:not([d=\"\"])`)).length"
    )


def box(browser, panel=0):
    """The place of a panel of the main chart in the window."""
    browser.run("document.querySelector('#course').scrollIntoView({block: 'center'})")
    return browser.run(
        f"(() => {{ const r = {PLOT.format(panel)}, b = document.querySelector('#course').getBoundingClientRect();"
        "const of = (name) => r[name].baseVal.value;"
        "return [b.x + of('x'), b.y + of('y'), of('width'), of('height')]; })()"
    )


def hover(browser, share, panel=0):
    """The text that a panel of the main chart shows with the pointer at a share of its width."""
    x, y, width, height = box(browser, panel)
    browser.mouse("mouseMoved", 1, 1)
    browser.wait(f"{SAID} === ''", seconds=10)
    browser.mouse("mouseMoved", x + share * width - 3, y + height / 3)
    browser.mouse("mouseMoved", x + share * width, y + height / 3)
    browser.wait(f"{SAID} !== ''", seconds=10)
    return browser.run(SAID)


def press(browser, key):
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)
