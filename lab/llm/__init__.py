"""A model behind the OpenAI protocol, asked for money: requests, limits, one layer of retries, and a store of every reply and attempt."""
