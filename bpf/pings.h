/*
 * Protocols that ask whether their peer is there, on a connection that is silent otherwise: for TCP that is payload, for
 * people it is silence. redirector/pings.py reads the same.
 *
 * Only a segment that is one such frame and nothing else counts, so that no request is taken for one. What TLS hides is
 * not seen.
 */
#define LONGEST_PING (2 + 4 + 125)

static __always_inline int is_ping(struct __sk_buff *skb, struct packet *p)
{
    u8 b[9] = {};

    if (p->proto != IPPROTO_TCP || p->kind != WHOLE || p->payload < 2 || p->payload > LONGEST_PING)
        return 0;
    if (bpf_skb_load_bytes(skb, p->data, b, 2))
        return 0;
    /* WebSocket (RFC 6455, 5.5): ping 9 or pong 10, whole; a client's has a mask. */
    if ((b[0] == 0x89 || b[0] == 0x8a) && p->payload == 2 + (b[1] & 0x7f) + (b[1] & 0x80 ? 4 : 0))
        return 1;
    /* MQTT 3.1.1, 3.12: PINGREQ, PINGRESP. */
    if (p->payload == 2)
        return (b[0] == 0xc0 || b[0] == 0xd0) && !b[1];
    /* AMQP 0-9-1, 4.2.7: heartbeat. */
    if (p->payload == 8 && !bpf_skb_load_bytes(skb, p->data, b, 8))
        return b[0] == 8 && !b[1] && !b[2] && !b[3] && !b[4] && !b[5] && !b[6] && b[7] == 0xce;
    /* HTTP/2, gRPC (RFC 9113, 6.7): PING of 8 bytes on stream 0, or its ACK. */
    if (p->payload == 17 && !bpf_skb_load_bytes(skb, p->data, b, 9))
        return !b[0] && !b[1] && b[2] == 8 && b[3] == 6 && b[4] < 2 && !b[5] && !b[6] && !b[7] && !b[8];
    return 0;
}
