"""`rlhf annotate`: open the annotation app, fill its store from files, and write what was judged."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from annotation.account_command import SECRET, SHORTEST_SECRET, invite_main, secret_of_environment, user_main
from annotation.accounts import Accounts
from annotation.arguments import STORE_HELP, Parser
from annotation.backup_command import backup_main, restore_main, verify_main
from annotation.campaign_command import campaign_main
from annotation.export_command import export_main
from annotation.import_command import import_main
from annotation.order_command import order_main
from annotation.public_site import Site, checked_public_url, is_loopback
from annotation.store import Store, StoreUnavailable


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, or one of the other actions; a mistake ends with "error: ..." and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    actions = {
        "import": import_main,
        "export": export_main,
        "campaign": campaign_main,
        "worker": worker_main,
        "order": order_main,
        "backup": backup_main,
        "restore": restore_main,
        "verify": verify_main,
        "user": user_main,
        "invite": invite_main,
    }
    with exit_on_error():
        if arguments and arguments[0] in actions:
            actions[arguments[0]](arguments[1:])
        elif arguments and not arguments[0].startswith("-"):
            others = ", ".join(actions)
            raise ValueError(f"unknown {arguments[0]!r}; rlhf annotate alone opens the app, its others: {others}")
        else:
            serve_main(arguments)


def serve_main(arguments: Sequence[str]) -> None:
    """Open the app until it is stopped."""
    parser = Parser(
        prog="rlhf annotate",
        usage="rlhf annotate --store URL [--port PORT] [--host HOST] [--accounts] ...\n"
        "       rlhf annotate import|export|campaign|order|worker|user|invite|backup|restore|verify --help",
        description="Open the annotation app in the browser.",
        epilog="import fills the store, export writes what was judged; each of the others says what it does.",
    )
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    host_help = "address to listen on; default 127.0.0.1, this machine only. Others need all that follows"
    parser.add_argument("--host", default="127.0.0.1", help=host_help)
    accounts_help = "ask for passwords; without it a name is enough, where only this machine reaches the app"
    parser.add_argument("--accounts", action="store_true", help=accounts_help)
    parser.add_argument("--public_url", metavar="URL", help="what people open, such as https://annotate.example.org")
    parser.add_argument("--tls_certificate", metavar="FILE", help="PEM, where no proxy does TLS")
    parser.add_argument("--tls_key", metavar="FILE", help="its key, PEM")
    proxy_help = "a proxy does TLS, and says in X-Forwarded-For who asks"
    parser.add_argument("--behind_proxy", action="store_true", help=proxy_help)
    trusted_help = "addresses or networks of that proxy; default 127.0.0.1"
    parser.add_argument("--trusted_proxies", nargs="+", metavar="ADDRESS", help=trusted_help)
    settings = parser.parse_args(arguments)
    if not 1 <= settings.port <= 65535:
        raise ValueError(f"port is {settings.port}; give a number from 1 to 65535")
    site = site_of(settings)
    try:
        from annotation.app import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the annotation app needs {error.name}: pip install 'rlhf-loop[annotation]'") from None
    secret = secret_of_environment()
    store = Store.open(settings.store)
    accounts = Accounts(store, passwords_required=settings.accounts or is_public(settings), secret=secret)
    missing = [*missing_settings(settings), *missing_manager(accounts)]
    if missing:
        store.close()
        reason = "the app can be reached from other machines" if is_public(settings) else "the app asks for passwords"
        raise ValueError("\n  ".join([f"{reason}, and this is missing:", *missing]))
    tls = (settings.tls_certificate, settings.tls_key) if settings.tls_certificate else None
    serve(store, host=settings.host, port=settings.port, accounts=accounts, site=site, tls=tls)


def is_public(settings: argparse.Namespace) -> bool:
    """Whether others than this machine's users reach the app; a proxy on this machine lets them."""
    loopback = is_loopback(settings.host) and not settings.host.endswith(".localhost")  # those are looked up
    return not loopback or settings.behind_proxy or settings.public_url is not None


def site_of(settings: argparse.Namespace) -> Site:
    """How browsers reach the app.

    Raises:
        ValueError: a setting cannot be used, or makes no sense without another one.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        given, other = ("tls_key", "tls_certificate") if settings.tls_key else ("tls_certificate", "tls_key")
        raise ValueError(f"{given} is given without {other}; give both, such as --{other} {other[4:]}.pem")
    if settings.trusted_proxies and not settings.behind_proxy:
        raise ValueError("trusted_proxies is given without --behind_proxy; add it, or leave both out")
    proxies = tuple(settings.trusted_proxies or ("127.0.0.1",)) if settings.behind_proxy else ()
    for address in proxies:
        try:
            ipaddress.ip_network(address)
        except ValueError:
            fix = "give addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"
            raise ValueError(f"trusted_proxies names {address!r}; {fix}") from None
    public_url = checked_public_url(settings.public_url) if settings.public_url is not None else ""
    return Site(public_url, settings.behind_proxy or settings.tls_certificate is not None, proxies)


def missing_settings(settings: argparse.Namespace) -> Iterator[str]:
    """What the app is not to be reached by other machines without, each with an example."""
    if not is_public(settings):
        return
    if settings.public_url is None:
        yield "--public_url: what people open, such as --public_url https://annotate.example.org"
    if settings.tls_certificate is None and not settings.behind_proxy:
        tls = "--tls_certificate certificate.pem --tls_key key.pem"
        yield f"--tls_certificate and --tls_key, such as {tls}; or --behind_proxy, where a proxy does TLS"
    if not secret_of_environment():
        example = f'export {SECRET}="$(openssl rand -hex 32)"'
        yield f"{SECRET} in the environment, {SHORTEST_SECRET} characters or more: {example}"


def missing_manager(accounts: Accounts) -> Iterator[str]:
    """A manager, where nobody comes in without a password."""
    if accounts.passwords_required and not accounts.has_manager():
        yield "a manager with a password: rlhf annotate user add NAME --role manager --store URL"


def worker_main(arguments: Sequence[str]) -> None:
    """Answer the prompts that annotators write; the only action that loads torch."""
    from rlhf.live_worker import main as answer

    sys.argv[0] = "rlhf annotate worker"
    answer(arguments)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """As `rlhf.training.parser.exit_on_error`, which would bring torch along."""
    try:
        yield
    except (ValueError, OSError, StoreUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
