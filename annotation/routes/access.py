"""Who may call a route: dependencies that give the annotator, or answer 401 (sign in) and 403 (not yours) in words.

@router.post("/next")
def next_card(body: NextRequest, annotator: SignedIn, service: Service) -> ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from annotation.records import ROLES, Annotator
from annotation.service import AnnotationService


async def _service(request: Request) -> AnnotationService:
    return request.app.state.service


Service = Annotated[AnnotationService, Depends(_service)]


def cookie_name(service: AnnotationService) -> str:
    """The session's cookie; browsers do not tell ports apart, so each store has a name of its own."""
    return f"rlhf_session_{service.store.id}"


def visitor(request: Request, service: AnnotationService) -> Annotator | None:
    """Whose session the request carries, if any."""
    return service.annotator_of(request.cookies.get(cookie_name(service)))


def _signed_in(request: Request, service: Service) -> Annotator:
    annotator = visitor(request, service)
    if annotator is None:
        raise HTTPException(401, "you are not signed in, or your session has ended: sign in again")
    # A tab keeps its work when somebody else signs in through another tab of the same browser.
    if request.headers.get("x-annotator", annotator.id) != annotator.id:
        raise HTTPException(401, f"this browser is signed in as {annotator.name} now: sign in again")
    return annotator


SignedIn = Annotated[Annotator, Depends(_signed_in)]


def has_role(annotator: Annotator, role: str) -> bool:
    """Whether somebody has this role or one above it."""
    return ROLES.index(annotator.role) >= ROLES.index(role)


def _at_least(role: str) -> Callable[[Annotator], Annotator]:
    def check(annotator: SignedIn) -> Annotator:
        if not has_role(annotator, role):
            raise HTTPException(403, f"this is for the role {role}, and yours is {annotator.role}: ask a manager")
        return annotator

    return check


Adjudicating = Annotated[Annotator, Depends(_at_least("adjudicator"))]
Managing = Annotated[Annotator, Depends(_at_least("manager"))]
