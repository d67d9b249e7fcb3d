# region: tasks
import os

from falcon_pachinko import Publisher

publish = Publisher.sync(os.environ["BACKEND"])  # connects at its first use, in each worker


def tell_shipped(order_id, user_id):
    publish.send_to_user(user_id, {"type": "order.shipped", "payload": order_id})
    # endregion


# region: retry
def note_payment(order_id):
    publish.broadcast_to_room(
        f"chat:order-{order_id}",
        {"type": "order.paid", "payload": order_id},
        idempotency_key=f"paid-{order_id}",
    )
    # endregion
